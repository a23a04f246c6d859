"""Several processes on one corpus: prepared by one of them, and in memory once."""

from __future__ import annotations

import random
from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks import preparation, shared_corpus


def test_processes_share_the_work_and_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random.seed(0)
    lines = [f"line number {i} of a source" for i in range(100)]
    monkeypatch.setattr(preparation, "sources", lambda: [lines])
    arguments = Namespace(megabytes=1, processes=2)
    rows = list(shared_corpus.rows(arguments, tmp_path))
    assert [row.what for row in rows] == ["2, which prepare it", "1, again", "2, at once"]
    assert [row.figures[1] for row in rows] == ["1", "0", "0"]


def test_a_process_that_fails_ends_the_others(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    conf = {"corpus": "text", "paths": [str(tmp_path / "none")], "cache_dir": str(tmp_path)}
    with pytest.raises(SystemExit, match="its message is above"):
        shared_corpus.together(conf, 2)
    assert "matches no file" in capfd.readouterr().err
