"""Processes of a launcher that differ, or do not come, are named; nobody waits for ever."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from lightning.fabric.utilities.rank_zero import rank_zero_only
from torch.distributed import PrefixStore, TCPStore

from core.errors import UserError
from core.launcher import LauncherPlace, detect_launcher, processes_of
from training.distributed import rendezvous


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[LauncherPlace, Any]]:
    """The place of process 0 of two, and the store as process 1 sees it."""
    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setattr(rendezvous, "_runs", itertools.count())
    monkeypatch.setattr(rendezvous, "CONNECT_TIMEOUT", timedelta(seconds=1))
    place = LauncherPlace(0, 2, 0, 2, "127.0.0.1", server.port, is_served=True)
    yield place, PrefixStore("attempt 0, run 0", server)


def test_other_versions_are_named(other: tuple[LauncherPlace, Any]) -> None:
    place, store = other
    theirs = rendezvous.versions() | {"host": "node7", "torch": "1.0"}
    store.set("versions 1", pickle.dumps(theirs))
    message = r"process 1 on node7 differs .*: torch 1\.0 there, .* here\. Install the same"
    with pytest.raises(UserError, match=message), rendezvous.Leader(place) as leader:
        leader.spawn_ranks(print).__enter__()
    assert pickle.loads(store.get("task")) is None  # process 1 is sent home


def test_a_process_that_does_not_come_is_named(other: tuple[LauncherPlace, Any]) -> None:
    place, _ = other
    with pytest.raises(UserError, match="process 1 of 2 has not come"):
        rendezvous.Leader(place).spawn_ranks(print).__enter__()


def test_rank_zero_cannot_be_reached(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rendezvous, "CONNECT_TIMEOUT", timedelta(seconds=1))
    monkeypatch.setattr(rank_zero_only, "rank", 0)  # put back afterwards: loggers ask for it
    free = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False).port
    place = LauncherPlace(1, 2, 1, 2, "127.0.0.1", free)
    with pytest.raises(SystemExit):
        rendezvous.follow_rank_zero(place)
    said = f"error: process 1: process 1 of 2: no connection to 127.0.0.1:{free} within 1 s"
    assert capsys.readouterr().err.startswith(said)


def test_places(monkeypatch: pytest.MonkeyPatch) -> None:
    assert detect_launcher() is None and processes_of(3) == 3
    step = {
        "SLURM_STEP_NUM_TASKS": "16", "SLURM_STEP_NUM_NODES": "2", "SLURM_JOB_ID": "7",
        "SLURM_STEP_NODELIST": "node[03-04]", "SLURM_PROCID": "9", "SLURM_LOCALID": "1",
    }  # fmt: skip
    for key, value in step.items():
        monkeypatch.setenv(key, value)
    place = detect_launcher()
    assert place is not None
    assert (place.rank, place.world, place.local_rank, place.local_world) == (9, 16, 1, 8)
    assert place.host == "node03"
    assert processes_of(1) == processes_of(8) == 16
    with pytest.raises(UserError, match=r"leave trainer\.devices out"):
        processes_of(2)
