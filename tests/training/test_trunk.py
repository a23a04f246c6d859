"""Trainings of several budgets from one trunk: their bits, their cost, and what a kill leaves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conf.schema import TrainConf
from core.errors import UserError
from probes.analysis.scaling_study import spending, swept
from probes.training_summaries import read_summary
from scripts import train as script
from tests.registered_models import spec_of
from tests.training.runs import run, run_conf, write_corpus
from tracking.jsonl import read_rows
from training import trunk
from training.run_folder.folder import RunFolder

BUDGETS = (4, 8, 12)


def point(folder: Path, corpus: Path, steps: int, **changes: Any) -> TrainConf:
    """A training of which the last quarter of its steps is a decay."""
    return run_conf(
        folder, corpus, name=f"n{steps}", group="study", trainer__max_steps=steps,
        optim__schedule="wsd", optim__decay_share=0.25, optim__warmup_steps=2,
        trainer__val_check_interval=0, **changes,
    )  # fmt: skip


def train(conf: TrainConf) -> dict[str, Any]:
    conf = trunk.after_trunk(conf, spec_of("rwkv4"))
    return run(conf)[0]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """The folder of the runs of one study, every budget from one trunk."""
    folder = tmp_path_factory.mktemp("runs")
    for steps in BUDGETS:
        train(point(folder, corpus, steps, trunk="trunk"))
    return folder


def test_a_point_has_the_bits_of_a_training_from_scratch(
    study: Path, tmp_path: Path, corpus: Path
) -> None:
    alone, _ = run(point(tmp_path, corpus, 12))
    shared = RunFolder(study / "study" / "n12").summary()
    assert shared is not None and shared["parent"]["step"] == 9
    for key in ("digest", "val_loss", "tokens", "forward_flops", "order_hash", "last_rate"):
        assert shared[key] == alone[key], key
    assert 4 * shared["own_forward_flops"] == shared["forward_flops"]
    assert alone["own_forward_flops"] == alone["forward_flops"]
    rows = read_rows(study / "study" / "n12" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [10, 11, 12]
    assert rows[-1]["train/lr"] == pytest.approx(1e-4)


def test_shared_steps_are_counted_once(study: Path) -> None:
    paths = (study / "study").glob("*/summary.json")
    summaries = {path.parent.name: read_summary(path) for path in paths}
    assert {run["name"] for run in swept(summaries.values())} == {"n4", "n8", "n12"}
    one = summaries["n4"]["forward_flops"] / 4
    spent = spending(summaries.values())
    assert spent is not None
    assert spent.lineages == 3 * one * (4 + 8 + 12)
    assert spent.computed == 3 * one * (9 + 1 + 2 + 3)  # the trunk, and three decays
    assert spent.saving == 24 / 15
    del summaries["trunk"]  # as far as it is known without it, the same
    again = spending(summaries.values())
    assert again is not None and again.computed == spent.computed


def test_the_same_command_does_nothing_again(
    study: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.stat().st_mtime_ns for path in study.rglob("*.ckpt")}
    assert len(before) > 3
    for steps in BUDGETS:
        conf = point(study, corpus, steps, trunk="trunk")
        monkeypatch.setattr(trunk, "train", pytest.fail)  # not even looked at
        assert train(conf)["steps"] == steps
    assert {path: path.stat().st_mtime_ns for path in study.rglob("*.ckpt")} == before


def test_what_was_interrupted_goes_on(
    study: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a kill before its summary leaves it: its own checkpoints are all there is."""
    conf = point(study, corpus, 12, trunk="trunk")
    folder = RunFolder(study / "study" / "n12")
    before = folder.summary_path.read_text()
    folder.summary_path.unlink()
    (study / "study" / "trunk").rename(study / "aside")
    monkeypatch.setattr(script, "model_spec", lambda model, vocab_size: spec_of("rwkv4"))
    summary = script.run(conf)
    (study / "aside").rename(study / "study" / "trunk")
    assert summary is not None and summary["digest"] == json.loads(before)["digest"]


def test_a_trunk_that_went_past_a_new_budget_says_which_steps_it_has(
    study: Path, corpus: Path
) -> None:
    conf = point(study, corpus, 5, trunk="trunk")
    with pytest.raises(UserError, match=r"of step 4, .* keeps its steps 8, 9: give"):
        train(conf)
    assert not (study / "study" / "n5").exists()


def test_a_branch_waits_for_the_process_that_trains_its_trunk(
    study: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = RunFolder(study / "study" / "trunk")
    code = (
        "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.lockf(file, fcntl.LOCK_EX); "
        "print('here', flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(shared.lock)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    glances = []

    with subprocess.Popen(command, text=True, **pipes) as other:  # type: ignore[call-overload]
        assert other.stdout.readline() == "here\n"

        def sleep(seconds: float) -> None:
            glances.append(seconds)
            other.communicate("\n")

        monkeypatch.setattr(trunk.time, "sleep", sleep)
        summary = train(point(study, corpus, 16, trunk="trunk"))
    assert glances == [trunk.GLANCE] and summary["parent"]["step"] == 12


def test_a_trunk_without_the_step_says_why() -> None:
    why = trunk._why
    assert why({"steps": 8}, 8, []).startswith("its checkpoints are gone")
    early = {"steps": 3, "ended_early": "a callback stopped it at step 3"}
    assert why(early, 8, [3]).startswith("it ended at step 3 (a callback stopped it at step 3)")
