"""The short form of the torture, and that it would notice a loss. The long one: `make torture`."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from conf.schema import SCRIPTS
from tests.faults import edges, refusals
from tests.faults.child import Child, Ended
from tests.faults.command_lines import bad_lines, keys
from tests.faults.refusals import complaint, problem_of
from tests.faults.torture import KINDS
from tests.faults.trainings import NAME, Reference, verdict
from tests.faults.weights import MAKERS
from tests.scripts.commands import ROOT
from tests.training.runs import run_conf
from training.run_folder.folder import RunFolder


@pytest.mark.slow
def test_nothing_is_lost() -> None:
    """In a process of its own, so that its children are forked from a server that has all of it."""
    command = [sys.executable, "-m", "tests.faults.torture", "runs=1", "seed=1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line.split("|")[1:4] for line in done.stdout.splitlines() if line.startswith("|")][2:]
    others = [math.ceil(kind.share) for kind in KINDS]
    tried = [int(count) for _, count, _ in rows]
    assert tried.pop(-2) <= others.pop()  # of places, some need root
    assert tried == [1, 1, 1, 1, 5, *others, len(MAKERS)]
    assert all(int(lost) == 0 for _, _, lost in rows)
    assert len(MAKERS) >= 30


def test_bad_lines_are_many_and_different() -> None:
    lines = bad_lines(500, 0)
    assert len(set(lines)) == 500
    assert bad_lines(500, 0) == lines != bad_lines(500, 1)
    assert {line[0] for line in lines} >= {"train", "probe", "report", "generate", "convert"}


def test_edges_are_of_every_script_and_key() -> None:
    lines = edges.edge_lines(1000, 0)
    assert len(set(lines)) == 1000
    assert edges.edge_lines(1000, 0) == lines != edges.edge_lines(1000, 1)
    given = {(line[0], word.partition("=")[0]) for line in lines for word in line[1:]}
    for script in SCRIPTS:
        assert given >= {(script, name) for name, _, _ in keys(script)}


def test_an_edge_that_is_not_answered_in_plain_words_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edges, "COMPUTING", 0.2)

    def answer(*_: object) -> int:
        return answers.pop()()

    def spin() -> int:
        while True:
            pass

    def leave() -> int:
        (tmp_path / "runs").mkdir()
        return 2

    nothing: dict[int, int] = {}
    answers = [lambda: 0, lambda: 2, lambda: 1, lambda: nothing[0], spin]
    monkeypatch.setattr(edges, "run", answer)
    told = [edges.problem_of(("train",), tmp_path) or "" for _ in range(5)]
    for text, start in zip(
        told, ("a traceback: Tim", "a traceback: Key", "status 1", "ref", ""), strict=True
    ):
        assert text.startswith(start) and bool(text) == bool(start)
    monkeypatch.setattr(edges, "run", lambda *_: print("error: no") or leave())
    assert "began work" in (edges.problem_of(("train",), tmp_path) or "")


def test_a_line_that_is_not_refused_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "status 0" in (problem_of("train", ["--help"], tmp_path) or "")
    (tmp_path / "before").mkdir()  # what an earlier line left
    assert problem_of("train", ["nothing=1"], tmp_path) is None

    def begin(*args: object) -> None:
        (tmp_path / "runs").mkdir()
        print("error: no")
        raise SystemExit(2)

    def fail(*args: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(refusals, "script", begin)
    assert "began work" in (problem_of("train", [], tmp_path) or "")
    monkeypatch.setattr(refusals, "script", fail)
    assert "a bug" in (problem_of("train", [], tmp_path) or "")


@pytest.mark.parametrize(
    "text", ["", "Traceback (most recent call last)\n", "error: a\nerror: b\n"]
)
def test_a_file_that_is_not_refused_in_one_line_is_noticed(text: str) -> None:
    assert complaint("a", Ended(2, text, 1.0))
    assert complaint("a", Ended(-11, "error: a\n", 1.0))
    assert complaint("a", Ended(2, "error: a\n", 1.0)) is None


def test_another_end_is_noticed(tmp_path: Path) -> None:
    reference = Reference(run_conf(tmp_path, tmp_path), "abc", [(1, "train/loss", 2.0)], 1.0)
    folder = RunFolder(tmp_path / NAME)
    folder.path.mkdir()
    folder.write_summary({"steps": 1, "digest": "abc"})
    folder.metrics.write_text('{"step": 1, "train/loss": 2.0}\n')
    assert verdict(reference, tmp_path, Ended(0, "", 1.0)) is None
    assert "status 1" in (verdict(reference, tmp_path, Ended(1, "", 1.0)) or "")
    folder.metrics.write_text('{"step": 1, "train/loss": 2.5}\n')
    assert "losses" in (verdict(reference, tmp_path, Ended(0, "", 1.0)) or "")
    folder.write_summary({"steps": 1, "digest": "abd"})
    assert "digest" in (verdict(reference, tmp_path, Ended(0, "", 1.0)) or "")


def test_a_child_tells_how_it_ended(tmp_path: Path) -> None:
    ended = Child(tmp_path / "console", refusals.load, tmp_path / "none.pth").wait()
    assert ended.status == 2 and ended.text.startswith("error: ") and not ended.traceback
