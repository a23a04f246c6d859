"""Streams whose worker is killed, for a few seconds, with the smallest model."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks.local_server import local_server
from benchmarks.streams import trial
from serving.app import Limits


@pytest.mark.slow  # tests/serving/test_supervisor.py kills workers as well
def test_every_stream_ends_with_its_tokens() -> None:
    with local_server(["rwkv7"], "mini", Limits()) as server:
        tally = asyncio.run(trial(server, streams=4, seconds=6, every=2))
        assert tally.answers > 4 and tally.killed >= 1
        assert tally.lost == tally.wrong == tally.left == 0
        assert len(tally.first) == tally.answers
        assert server.models["rwkv7"].supervisor.restarts >= 1
