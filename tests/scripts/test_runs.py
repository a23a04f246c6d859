"""What `runs.py` shows of whole, branched, interrupted and damaged runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conf.schema import RunsConf
from core.errors import UserError
from core.files import write_manifest
from scripts.runs import main
from tests.scripts.commands import ROOT, run_script
from training.run_folder.begun import Begun, Parent
from training.run_folder.folder import RunFolder
from training.run_folder.lineage import is_there, read_runs
from training.run_folder.lock import owned

LONG = "rwkv7-5m-lr3e-3-bs8-a-name-that-lists-everything-s0"


def make(
    runs: Path, name: str, steps: int, parent: Path | None = None, **summary: Any
) -> RunFolder:
    """A run with one checkpoint; without a summary one that was interrupted."""
    folder = RunFolder(runs / name)
    folder.checkpoints.mkdir(parents=True)
    folder.config.write_text("trainer: {max_steps: 8}\n")
    checkpoint = folder.checkpoints / f"step-{steps:08d}.ckpt"
    checkpoint.write_bytes(os.fsencode(name))
    write_manifest(checkpoint)
    if parent is not None:
        Begun("auto", Parent.of(parent)).write(folder)
    if summary:
        folder.write_summary({"steps": steps, **summary})
    return folder


def checkpoint_of(folder: RunFolder) -> Path:
    (path,) = folder.checkpoints.glob("*.ckpt")
    return path


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A trunk with a branch of a branch, an interrupted, an early and two damaged runs."""
    runs = tmp_path / "runs"
    trunk = make(runs, "trunk", 8, tokens=1024, val_loss=2.5)
    change = {"step": 8, "changed": {"optim.lr": [1e-3, 1e-4]}}
    branch = make(
        runs, f"g/{LONG}", 12, checkpoint_of(trunk), tokens=1536, val_loss=2.25, changes=[change]
    )
    make(runs, "g/leaf", 14, checkpoint_of(branch), ended_early="pruned: it is above")
    half = make(runs, "half", 4)
    rows = [{"step": 2, "val/loss": 4.0}, {"step": 4, "train/tokens": 512}]
    half.metrics.write_text("".join(f"{json.dumps(row)}\n" for row in rows) + '{"step": 5, "tr')
    make(runs, "hurt", 8, tokens=1, val_loss=1.0).summary_path.write_text('{"steps": 8}}')
    make(runs, "hurt2", 8, tokens="many", changes=[{"step": 1}])
    (runs / "notes").mkdir()
    return runs


def test_the_tree_shows_each_run_below_its_origin(
    runs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    done = run_script(capfd, "runs", "tree", f"runs_dir={runs}")
    assert done.status == 0
    lines = [line.rstrip() for line in done.out.splitlines() if line.strip()]
    assert max(map(len, lines[1:])) <= 80
    text = " ".join(" ".join(line.strip("│├└─ ") for line in lines).split())
    assert f"{LONG} everything of step 8; finished, 12 steps, 1,536 tokens, val loss 2.2500" in text
    assert "after step 8: optim.lr 0.001 -> 0.0001" in text
    assert "leaf everything of step 12; ended early: pruned: it is above, 14 steps" in text
    assert "half interrupted at step 4 of 8, 512 tokens, val loss 4.0000" in text
    depths = {
        word: line.index(word)
        for word in ("trunk", LONG, "g/leaf")
        for line in lines
        if line.strip("│├└─ ") in (word, f"g/{word}")
    }
    assert depths["trunk"] < depths[LONG] - 2 < depths["g/leaf"] - 2
    (hurt,) = [line for line in lines if " hurt " in line]
    assert "damaged: summary.json: not JSON" in hurt
    assert "hurt2 damaged: summary.json: tokens, changes: wrong" in text
    assert "notes" not in text and "Traceback" not in done.err
    assert run_script(capfd, "runs", f"runs_dir={runs}").out == done.out


def test_a_source_that_is_gone_or_renamed_is_told(
    runs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trunk = RunFolder(runs / "trunk")
    trunk.path.rename(runs / "stem")
    (branch,) = [run for run in read_runs(runs) if run.name == f"g/{LONG}"]
    assert branch.origin is not None and branch.origin.name == "stem"
    checkpoint_of(RunFolder(runs / "stem")).unlink()
    said = " ".join(run_script(capfd, "runs", f"runs_dir={runs}").out.replace("│", "").split())
    assert "(its source, now gone)" in said
    assert "leaf everything of step 12; ended early" in said


def test_runs_that_began_from_one_another_are_listed_once(tmp_path: Path) -> None:
    first = make(tmp_path, "first", 4)
    second = make(tmp_path, "second", 6, checkpoint_of(first))
    Begun("never", Parent.of(checkpoint_of(second))).write(first)
    by_name = {run.name: run for run in read_runs(tmp_path)}
    assert [run.name for run in by_name["second"].children] == ["first"]
    assert by_name["second"].origin is None


def test_a_run_that_is_worked_on_is_running(tmp_path: Path) -> None:
    folder = make(tmp_path, "busy", 4)
    code = (
        "import sys; from pathlib import Path\n"
        "from training.run_folder.lineage import is_there, read_runs\n"
        "print(*(run.status for run in read_runs(Path(sys.argv[1]))))"
    )
    with owned(folder):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=ROOT
        )
        assert done.stdout.strip() == "running, saved at step 4 of 8", done.stderr
    assert read_runs(tmp_path)[0].status == "interrupted at step 4 of 8"


def test_a_folder_that_is_none_is_one_message(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    done = run_script(capfd, "runs", f"runs_dir={tmp_path / 'no'}")
    assert done.status == 2 and "no such folder" in done.err
    none = run_script(capfd, "runs", f"runs_dir={tmp_path}").out
    assert "no runs yet" in " ".join(none.split())


def test_a_large_folder_of_other_things_is_one_message(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [run.name for run in read_runs(runs)]
    monkeypatch.setattr("training.run_folder.lineage.MOST_OTHERS", 3)  # runs, g and notes
    assert [run.name for run in read_runs(runs)] == found
    (runs / "notes" / "deep" / "deeper").mkdir(parents=True)  # of which the last is not looked at
    monkeypatch.setattr("training.run_folder.lineage.MOST_OTHERS", 4)
    assert [run.name for run in read_runs(runs)] == found
    monkeypatch.setattr("training.run_folder.lineage.MOST_OTHERS", 3)
    with pytest.raises(UserError, match=r"runs_dir=.*: more than 3 folders in it are no runs"):
        read_runs(runs)


def test_nothing_heavy_is_imported(tmp_path: Path) -> None:
    code = (
        "import runpy, sys\n"
        "try: runpy.run_path('scripts/runs.py', run_name='__main__')\n"
        "except SystemExit as end: print(end.code, *{'torch', 'lightning'} & {*sys.modules})"
    )
    words = ["tree", f"runs_dir={tmp_path}"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=ROOT
    )
    assert done.stdout.splitlines()[-1] == "0", done.stdout + done.stderr


@pytest.mark.parametrize("path", ["/tmp/" + "a" * 5000 + "/c/x.ckpt", "a/" * 3000, "loop/x/y.ckpt"])
def test_a_source_that_no_file_system_has_is_gone(runs: Path, path: str) -> None:
    (runs / "loop").symlink_to(runs / "loop")
    if path.startswith("loop"):
        path = str(runs / path)
    odd = make(runs, "odd", 4, tokens=1, val_loss=1.0)
    Begun("auto", Parent(path, 4, "0" * 64, "everything")).write(odd)
    listed = {run.name: run for run in read_runs(runs)}
    assert listed["odd"].origin is None and not is_there(listed["odd"])
    assert listed["trunk"].status == "finished"


@pytest.mark.parametrize(
    "wrong", [{"tokens": True}, {"val_loss": True}, {"changes": [{"step": "4", "changed": {}}]}]
)
def test_a_summary_of_other_types_is_damaged(runs: Path, wrong: dict[str, Any]) -> None:
    make(runs, "odd", 4, **{"tokens": 1, "val_loss": 1.0, **wrong})
    assert {run.name: run for run in read_runs(runs)}["odd"].is_damaged


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"\xff\xfe", "\\udcff\\udcfe"),
        (b"a\nb", "a\\nb"),
        (b"a\x1b[31mred", "a\\x1b[31mred"),
        (b"[bold]x", "[bold]x"),
    ],
)
def test_a_folder_may_be_called_anything(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], name: bytes, shown: str
) -> None:
    """A terminal obeys none of it, and nothing fails to be printed."""
    make(tmp_path / "runs", os.fsdecode(name), 8, tokens=1, val_loss=1.0)
    main(RunsConf(runs_dir=str(tmp_path / "runs")))
    said = capfdbinary.readouterr().out.decode()
    assert f" {shown}\n" in said and "finished, 8 steps" in said
