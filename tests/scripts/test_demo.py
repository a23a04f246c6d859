"""The stages of the demo: their commands are accepted, and they keep to the time."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conf.schema import DemoConf
from core.errors import UserError
from scripts import demo
from scripts.cli.check import problems_of

Commands = list[tuple[tuple[str, ...], int | None]]


def run(
    monkeypatch: pytest.MonkeyPatch,
    seconds: dict[str, float],
    statuses: dict[str, int],
    busy: float = 0.0,
    **keys: Any,
) -> Commands:
    """The commands of a demo whose scripts take `seconds` and end with `statuses`."""
    now, commands = [0.0], list[tuple[tuple[str, ...], int | None]]()

    def start(command: tuple[str, ...], threads: int | None = None) -> SimpleNamespace:
        commands.append((command, threads))
        now[0] += seconds.get(command[0], 0.0)
        return SimpleNamespace(wait=lambda: statuses.get(command[0], 0))

    monkeypatch.setattr(demo, "start", start)
    monkeypatch.setattr(demo.signal, "signal", lambda number, handler: None)
    monkeypatch.setattr(demo, "check_places", lambda folder: None)
    monkeypatch.setattr(demo, "build_for", lambda device, operators: {})
    monkeypatch.setattr(demo.Demo, "answer", lambda self: print("\nfirst answer: ..."))
    monkeypatch.setattr(demo.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(demo.torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(demo.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(demo.psutil, "cpu_percent", lambda seconds: busy)
    demo.main([DemoConf(**keys)])
    return commands


def test_every_command_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = run(monkeypatch, {}, {})
    assert [command[0] for command, _ in commands] == [
        "probe", "train", "train", "probe", "probe", "probe", "probe", "probe", "report",
    ]  # fmt: skip
    assert "processes=[6,6,6,6,3]" in commands[0][0]
    assert "processes=[1]" in commands[3][0] and "processes=[3,3]" in commands[4][0]
    assert "lengths=[35000]" in commands[5][0] and "repeats=1" in commands[5][0]
    for (script, *words), _ in commands:
        assert problems_of(script, words) == []
    assert [threads for (script, *_), threads in commands if script == "train"] == [1, 1]


def test_each_stage_is_numbered_and_says_how_much_time_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, {"probe": 30, "train": 40}, {})
    stages = re.findall(r"^\[(\d)/(\d)\] .*\((\d:\d\d) left\)$", capsys.readouterr().out, re.M)
    assert [place for place, _, _ in stages] == ["1", "2", "3", "4", "5", "6", "7", "8", "9"]
    assert {total for _, total, _ in stages} == {"9"}
    assert [left for _, _, left in stages] == [
        "5:00", "5:00", "4:30", "3:10", "2:40", "2:10", "1:40", "1:10", "0:40",
    ]  # fmt: skip


def test_everything_is_measured_once_however_late_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = [command for command, _ in run(monkeypatch, {"probe": 200, "train": 200}, {})]
    assert [command[0] for command in commands] == ["probe", "train", "train", "probe", "report"]


def test_what_the_time_does_not_allow_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = [command for command, _ in run(monkeypatch, {"probe": 70, "train": 60}, {})]
    assert [command[0] for command in commands] == ["probe", "train", "train", "probe", "report"]
    assert "processes=[1]" in commands[3]
    out = capsys.readouterr().out
    assert out.count("left out: it would take about 0:42") == 1
    assert out.count("left out: it would take about 1:10") == 2


@pytest.mark.parametrize(("seconds", "steps"), [(60, 160), (90, 80), (200, 40)])
def test_training_takes_the_steps_that_the_time_allows(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    seconds: int,
    steps: int,
) -> None:
    """Equally many for both models, and as many again when the same command goes on."""
    monkeypatch.chdir(tmp_path)  # where no demo has begun
    commands = run(monkeypatch, {"probe": seconds, "train": 30}, {})
    asked = {words[-1] for (script, *words), _ in commands if script == "train"}
    shortened = steps < demo.STEPS[0]
    assert (asked == {f"trainer.max_steps={steps}"}) == shortened
    assert (f"for {steps} steps instead of 160" in capsys.readouterr().out) == shortened
    for (script, *words), _ in commands:
        assert problems_of(script, words) == []


def test_a_training_that_was_begun_keeps_its_steps(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "demo" / "rwkv4").mkdir(parents=True)
    (tmp_path / "demo" / "rwkv4" / "config.yaml").write_text("trainer: {max_steps: 80}\n")
    commands = run(monkeypatch, {}, {}, runs_dir=str(tmp_path))
    asked = [words[-1] for (script, *words), _ in commands if script == "train"]
    assert asked == ["trainer.max_steps=80"] * 2


def test_where_others_compute_each_point_gets_fewer_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commands = run(monkeypatch, {"probe": 40, "train": 30}, {}, busy=50.0)
    assert "processes=[3,3,3,3,3]" in commands[0][0] and "remeasure=0.1" in commands[0][0]


def test_a_stage_that_fails_or_is_stopped_ends_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="status 2"):
        run(monkeypatch, {}, {"train": 2})
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, {}, {"probe": 130})
    assert stop.value.code == 130


def test_places_that_cannot_be_written_are_told_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    demo.check_places(Path("runs", "demo"))
    Path("file").touch()
    with pytest.raises(UserError, match=r"demo cannot be written .*: start the demo with another"):
        demo.check_places(Path("file", "demo"))
    assert not Path("runs").exists()
    Path(".cache").touch()
    with pytest.raises(UserError, match=r".cache cannot be written .*start the demo in another"):
        demo.check_places(Path("runs", "demo"))
