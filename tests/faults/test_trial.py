"""That a trial tells a refusal from a hang, a traceback and what executes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.faults import trial
from tests.faults.child import Ended
from tests.faults.trial import fault, run


def refuse() -> None:
    print("error: not so", file=sys.stderr)
    sys.exit(2)


def block(fifo: Path) -> None:
    print("opening")
    fifo.read_bytes()


def grow() -> None:
    print(len(bytes(2 * trial.MEMORY)))


def test_how_a_child_ends_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "LIMIT", 0.5)
    monkeypatch.setattr(trial, "COMPUTING", 0.5)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    assert fault(run(tmp_path / "a", refuse), refused=True, lines=1) is None
    assert "hangs: opening" in (fault(run(tmp_path / "b", block, fifo)) or "")
    assert "MemoryError" in (fault(run(tmp_path / "c", grow)) or "")


@pytest.mark.parametrize(
    "ended",
    [
        Ended(0, "Traceback (most recent call last)\nValueError", 1.0),
        Ended(1, "error: a", 1.0),
        Ended(-9, "", 1.0),
        Ended(2, "no", 1.0),
    ],
)
def test_what_is_no_plain_end_is_a_fault(ended: Ended, tmp_path: Path) -> None:
    assert fault(ended)


def test_a_refusal_that_a_terminal_would_obey_is_a_fault() -> None:
    assert fault(Ended(2, "error: a\x1b[2J\n", 1.0)) and not fault(Ended(2, "error: a\n", 1.0))


def test_a_run_or_refusal_that_should_not_be_is_a_fault(tmp_path: Path) -> None:
    taken, refused = Ended(0, "", 1.0), Ended(2, "error: a\nerror: b\n", 1.0)
    assert fault(taken) is None and fault(refused) is None
    assert fault(taken, refused=True) and fault(refused, refused=False)
    assert fault(refused, lines=1)
    marker = tmp_path / "executed"
    assert fault(taken, marker) is None
    marker.touch()
    assert fault(taken, marker) == "executed"
