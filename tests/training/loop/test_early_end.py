"""Trainings that end before their last step, and stay ended."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conf.schema import TrainingConf
from core.errors import UserError
from tests.training.runs import run, run_conf, write_corpus
from tracking.jsonl import read_rows
from training.checkpoints.find import saved, step_of
from training.loop.early_end import EarlyEnd, losses_at


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def early(place: Path, corpus: Path, **changes: Any) -> Any:
    """A run that validates after every second step of 8."""
    return run_conf(place, corpus, trainer__val_check_interval=2, **changes)


def test_a_target_ends_a_training_and_the_same_command_leaves_it_so(
    tmp_path: Path, corpus: Path
) -> None:
    conf = early(tmp_path, corpus, training__target_loss=100.0)
    summary, folder = run(conf)
    assert summary["steps"] == 2 and "reached the target" in summary["ended_early"]
    assert [step_of(path) for path in saved(folder)] == [2]
    assert run(conf)[0] == summary


def test_no_progress_ends_a_training_as_many_validations_later(
    tmp_path: Path, corpus: Path
) -> None:
    """With a rate of 0 nothing gets better; a kill on the way changes nothing."""
    still = {"optim__lr": 0.0, "optim__final_lr": 0.0, "checkpoint__every_n_train_steps": 1}
    conf = early(tmp_path, corpus, training__patience=2, **still)
    summary, folder = run(conf)
    assert summary["steps"] == 6
    assert summary["ended_early"] == "no lower validation loss in 2 validations, at step 6"
    folder.summary_path.unlink()  # as if killed after the last save
    again, _ = run(conf)
    assert (again["steps"], again["digest"]) == (6, summary["digest"])
    assert again["ended_early"] == summary["ended_early"]
    for path in (saved(folder)[-1], folder.summary_path):  # and before it
        path.unlink()
    again, _ = run(conf)
    assert (again["steps"], again["digest"]) == (6, summary["digest"])


def test_the_median_of_the_group_prunes(tmp_path: Path, corpus: Path) -> None:
    def beside(name: str, loss: float) -> None:
        (tmp_path / "g" / name).mkdir(parents=True)
        rows = [{"step": 2, "val/loss": loss}, {"step": 4, "val/loss": loss}]
        (tmp_path / "g" / name / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))

    beside("a", 1.0)
    beside("b", 1.0)
    (tmp_path / "g/damaged/metrics.jsonl").mkdir(parents=True)
    (tmp_path / "g/diverged").mkdir()
    (tmp_path / "g/diverged/metrics.jsonl").write_text('{"step": 2, "val/loss": null}')
    conf = early(tmp_path, corpus, group="g", training__prune="median", trainer__max_steps=4)
    assert run(conf)[0]["ended_early"] is None  # two others are too few
    conf.name = "second"  # beside a, b and the first
    beside("c", 1.0)
    summary, _ = run(conf)
    assert summary["steps"] == 2
    assert summary["ended_early"].startswith("pruned: validation loss ") and summary["pruned"]
    assert summary["ended_early"].endswith("median of 4 other runs of the group")
    own = tmp_path / "g/second"
    at_2 = losses_at(2, tmp_path / "g", own)
    first = [
        row["val/loss"] for row in read_rows(tmp_path / "g/run/metrics.jsonl") if "val/loss" in row
    ]
    assert sorted(at_2) == sorted([1.0, 1.0, 1.0, first[0]])


def test_nothing_is_added_to_a_training_that_asks_for_none(tmp_path: Path, corpus: Path) -> None:
    assert EarlyEnd.of(run_conf(tmp_path, corpus), tmp_path) is None


def test_another_patience_is_another_run(tmp_path: Path, corpus: Path) -> None:
    run(early(tmp_path, corpus, training__target_loss=100.0))
    with pytest.raises(UserError, match=r"training\.target_loss"):
        run(early(tmp_path, corpus, training__target_loss=50.0))


def test_a_loss_that_is_not_finite_is_no_lowest_one() -> None:
    end = EarlyEnd(TrainingConf(patience=2), Path(), None)
    reasons = []
    for loss in (math.nan, 5.0, 4.0, math.inf, 4.5):
        module: Any = SimpleNamespace(val_loss=loss)
        trainer: Any = SimpleNamespace(
            global_step=1,
            is_global_zero=True,
            strategy=SimpleNamespace(broadcast=lambda value: value),
        )
        end.on_validation_end(trainer, module)
        reasons.append(end.reason)
    assert reasons[:4] == [None] * 4
    assert reasons[4] == "no lower validation loss in 2 validations, at step 1"
