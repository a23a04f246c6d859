"""Stages that a command starts: their words, where they print, and how they end together."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from core.errors import UserError
from scripts.cli import stages


class Ended:
    """A stage that has ended with a status."""

    def __init__(self, status: int) -> None:
        self.status = status

    def wait(self) -> int:
        return self.status


def test_a_stage_is_the_command_that_a_user_would_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: dict[str, Any] = {}

    def popen(words: list[str], **settings: Any) -> None:
        started.update(settings, words=words)

    monkeypatch.setattr(subprocess, "Popen", popen)
    stages.start(("train", "name=a b"), threads=1)
    assert capsys.readouterr().out == "$ python scripts/train.py 'name=a b'\n"
    assert Path(started["words"][1]).is_file() and started["words"][2:] == ["name=a b"]
    assert started["env"]["OMP_NUM_THREADS"] == "1" and started["stdout"] is None
    with (tmp_path / "log").open("w") as log:
        stages.start(("train", "name=a"), output=log)
    assert started["stdout"] is started["stderr"] is log
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("status", [75, 130])
def test_a_stage_that_was_asked_to_stop_ends_all(status: int) -> None:
    with pytest.raises(SystemExit) as stop:
        stages.finish([Ended(0), Ended(status)])  # type: ignore[list-item]
    assert stop.value.code == status


def test_a_stage_that_fails_is_told() -> None:
    with pytest.raises(UserError, match="a stage ended with status 2"):
        stages.finish([Ended(2)])  # type: ignore[list-item]


def test_sigterm_ends_what_was_started() -> None:
    """The second one has to end before this does, as a training that saves."""
    ended = []

    class Stage:
        def __init__(self, name: str) -> None:
            self.name, self.waits = name, 0

        def wait(self) -> int:
            self.waits += 1
            if self.waits == 1 and self.name == "first":
                stages.terminate(15, None)
            return 75

        def terminate(self) -> None:
            ended.append(self.name)

    both = [Stage("first"), Stage("second")]
    with pytest.raises(SystemExit) as stop:
        stages.finish(both)
    assert stop.value.code == stages.TERMINATED
    assert ended == ["first", "second"] and both[1].waits == 1
