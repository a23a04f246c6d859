"""What `scripts/evidence.py` starts, how long it lets it run, and the page it leaves."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from conf.schema import EVIDENCE, FOLDER, EvidenceConf
from core.errors import UserError
from probes.analysis.experiments import BY_NAME, CONVOLVED, SIGNED
from scripts import evidence
from scripts.cli.check import problems_of


class Process:
    """A stage that writes the summaries of two trainings each time it is looked at."""

    def __init__(self, name: str, folder: Path, status: int) -> None:
        self.name, self.folder, self.status = name, folder, status
        self.looks, self.stopped = 0, False

    @property
    def has_ended(self) -> bool:
        return self.stopped or self.looks >= 3

    def poll(self) -> int | None:
        if self.stopped:
            return 75
        for number in (2 * self.looks, 2 * self.looks + 1):
            path = self.folder / self.name / f"run-{number}"
            path.mkdir(parents=True, exist_ok=True)
            (path / "summary.json").touch()
        self.looks += 1
        return self.status if self.looks == 3 else None

    def terminate(self) -> None:
        self.stopped = True


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, ...]]:
    """The commands that were started, each of which ends at the third look; one name fails."""
    commands: list[tuple[str, ...]] = []

    running: list[Process] = []

    def start(command: tuple[str, ...], threads: int | None, output: Any) -> Process:
        assert output is not None
        measures = command[0] == "probe"
        assert threads == (None if measures else 1)
        others = [process for process in running if not process.has_ended]
        assert not others if measures else all(other.name != "costs" for other in others)
        commands.append(command)
        name = "costs" if measures else command[2].partition("=")[2]
        running.append(Process(name, tmp_path, 1 if name == "parity" else 0))
        return running[-1]

    monkeypatch.setattr(evidence, "start", start)
    monkeypatch.setattr(evidence.signal, "signal", lambda number, handler: None)
    monkeypatch.setattr(evidence, "EVERY", 0.0)
    return commands


def test_experiments_recipes_and_settings_are_those_of_each_other() -> None:
    assert tuple(BY_NAME) == EVIDENCE
    for name in EVIDENCE:
        for recipe, _ in BY_NAME[name].recipes:
            assert set(evidence.sweep_of(recipe)) >= {"model", "optim.lr", "seed"}
            text = (FOLDER / "experiment" / f"{recipe}.yaml").read_text()
            assert f"group: {recipe}" in text and "Expected: " in text and "Source: " in text
        models = {model for claim in BY_NAME[name].claims for model in claim.models}
        swept = {*evidence.values_of(evidence.sweep_of(name)["model"]), CONVOLVED, SIGNED}
        assert models <= swept
    assert evidence.sweep_of("lookup")["optim.lr"] == evidence.sweep_of("copying")["optim.lr"]
    assert evidence.planned_of("parity", EvidenceConf()) == 7 * 2 * 3
    assert evidence.planned_of("recall_hybrids", EvidenceConf()) == 3 * 2
    assert evidence.planned_of("parity", EvidenceConf(words=["seed=0", "model=lstm"])) == 2


def test_all_of_it_takes_an_hour_and_a_half_on_two_cores() -> None:
    minutes = sum(job.minutes for job in evidence.jobs_of(EvidenceConf()))
    assert minutes / 2 <= 90


@pytest.mark.slow
def test_every_command_is_accepted() -> None:
    for job in evidence.jobs_of(EvidenceConf()):
        script, *words = job.command
        assert problems_of(script, words) == [], words


def test_they_run_side_by_side_and_what_fails_is_named(
    started: list[tuple[str, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    conf = EvidenceConf(experiments=["parity", "recall"], runs_dir=str(tmp_path), workers=2)
    with pytest.raises(UserError, match=r"parity ended with an error: see .*logs"):
        evidence.main([conf])
    place = f"runs_dir={tmp_path}"
    assert started[0][:2] == ("probe", "-m")  # alone, as `start` has seen
    names = ("recall", "parity", "recall_hybrids", "recall_convolved", "parity_signed")
    assert started[1:] == [("train", "-m", f"experiment={name}", place) for name in names]
    said = capsys.readouterr()
    assert "of 69 done" in said.err
    assert "0 of 2 experiments came out as published, 2 have not run\nopen " in said.out
    page = json.loads((tmp_path / "evidence" / "evidence.json").read_text())
    assert [section["name"] for section in page["sections"]] == ["parity", "recall"]
    assert (tmp_path / "evidence" / "index.html").read_text().startswith("<!doctype html>")


def test_what_the_time_does_not_allow_is_stopped_and_goes_on_later(
    started: list[tuple[str, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    conf = EvidenceConf(experiments=["recall", "copying"], runs_dir=str(tmp_path), minutes=0.0)
    conf.costs, conf.workers = False, 1
    evidence.main([conf])
    assert started == []
    assert "stopped after 0 minutes; the same command goes on" in capsys.readouterr().out


def test_trainings_of_other_settings_do_not_stand_for_those_of_a_recipe(
    started: list[tuple[str, ...]], tmp_path: Path
) -> None:
    for number in range(60):  # as an earlier recipe has left them
        (tmp_path / "lookup" / f"old-{number}").mkdir(parents=True)
        (tmp_path / "lookup" / f"old-{number}" / "summary.json").touch()
    conf = EvidenceConf(experiments=["lookup"], runs_dir=str(tmp_path), costs=False)
    evidence.main([conf])
    assert [command[2] for command in started] == ["experiment=lookup"]


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_a_log_that_is_no_file_is_an_error_and_not_a_wait(
    started: list[tuple[str, ...]], tmp_path: Path, kind: str
) -> None:
    log = tmp_path / "evidence" / "logs" / "recall.txt"
    log.parent.mkdir(parents=True)
    makers: dict[str, Any] = {
        "pipe": lambda: os.mkfifo(log),
        "device": lambda: log.symlink_to("/dev/full"),
        "folder": log.mkdir,
    }
    makers[kind]()
    conf = EvidenceConf(experiments=["recall"], runs_dir=str(tmp_path), costs=False)
    with pytest.raises(OSError) as caught:
        evidence.main([conf])
    assert started == [] and caught.value.filename == str(log)  # the launcher says which and why


def test_a_page_alone_starts_nothing(started: list[tuple[str, ...]], tmp_path: Path) -> None:
    evidence.main([EvidenceConf(train=False, runs_dir=str(tmp_path), out=str(tmp_path / "page"))])
    assert started == [] and (tmp_path / "page" / "index.html").is_file()
