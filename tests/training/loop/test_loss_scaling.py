"""Precision 16-mixed: gradients are clipped and logged without the scale of the losses, and small
ones survive. A CPU casts to fp16 as a GPU does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from core.errors import UserError
from tests.training.ranks import Job, folder_of, interrupted, launch
from tests.training.runs import run, run_conf, write_corpus
from tracking.jsonl import read_rows
from training.checkpoints.find import read, saved
from training.loop import loss_scaling
from training.loop.module import LanguageModel
from training.run_folder.folder import RunFolder

FIRST_SCALE = 2.0**16
CLIPPED = {"trainer__gradient_clip_val": 0.3}
HALF = {"trainer__precision": "16-mixed"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def column(folder: RunFolder, name: str) -> list[float]:
    return [row[name] for row in read_rows(folder.metrics) if name in row]


def scale_in(content: dict[str, Any]) -> float:
    assert content["crossover"]["scales"] == ["MixedPrecision"]
    return content["MixedPrecision"]["scale"]


def overflowing(monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> None:
    """Let the gradients of these optimizer steps be infinite."""
    honest = LanguageModel.training_step

    def step(module: LanguageModel, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        objective = honest(module, batch, batch_idx)
        if module.trainer.global_step in steps:
            objective.register_hook(lambda gradient: gradient * torch.inf)
        return objective

    monkeypatch.setattr(LanguageModel, "training_step", step)


@pytest.mark.parametrize(
    "changes",
    [{}, {"trainer__accumulate_grad_batches": 2}, {"optim__name": "muon"}],
    ids=["adamw", "accumulated", "muon"],
)
def test_norms_and_losses_are_those_of_fp32(
    tmp_path: Path, corpus: Path, changes: dict[str, Any]
) -> None:
    """They were 2^16 times as large, so that every step was clipped to next to nothing."""
    changes = {"optim__lr": 3e-3, "optim__warmup_steps": 2, **CLIPPED, **changes}
    exact = run(run_conf(tmp_path, corpus, name="exact", **changes), "transformer")[1]
    half = run(run_conf(tmp_path, corpus, name="half", **HALF, **changes), "transformer")[1]
    for name, tolerance in (("train/grad_norm", 0.05), ("train/loss", 0.01), ("val/loss", 0.01)):
        expected = column(exact, name)
        assert column(half, name) == pytest.approx(expected, rel=tolerance), name
    assert min(column(exact, "train/grad_norm")) > CLIPPED["trainer__gradient_clip_val"]
    summary = half.summary()
    assert summary is not None and summary["overflowed_steps"] == summary["skipped_steps"] == 0


def test_an_overflow_is_left_out_and_counted_and_lowers_the_scale(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overflowing(monkeypatch, {0, 4})
    summary, folder = run(
        run_conf(tmp_path, corpus, **HALF, **CLIPPED, checkpoint__every_n_train_steps=1,
                 checkpoint__keep="last:9", trainer__max_steps=6)
    )  # fmt: skip
    assert (summary["steps"], summary["overflowed_steps"], summary["skipped_steps"]) == (6, 2, 0)
    contents = [read(path) for path in saved(folder)]
    assert [scale_in(content) / FIRST_SCALE for content in contents] == [0.5] * 4 + [0.25] * 2
    assert not contents[0]["optimizer_states"][0]["state"]
    before, after = contents[3], contents[4]
    assert all(
        torch.equal(each, after["state_dict"][n]) for n, each in before["state_dict"].items()
    )
    for index, moments in before["optimizer_states"][0]["state"].items():
        assert all(
            torch.equal(each, after["optimizer_states"][0]["state"][index][key])
            for key, each in moments.items()
        )
    rows = [row for row in read_rows(folder.metrics) if "train/loss" in row]
    assert [row.get("train/overflowed_steps") for row in rows] == [1, 1, 1, 1, 2, 2]
    assert [row["train/grad_norm"] is None for row in rows] == [True, *[False] * 3, True, False]


def test_a_gradient_that_no_scale_keeps_finite_stops_the_run(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ever smaller scales the run would otherwise go on for ever and learn nothing."""
    overflowing(monkeypatch, set(range(100)))
    monkeypatch.setattr(loss_scaling, "SMALLEST_SCALE", FIRST_SCALE / 3)
    with pytest.raises(UserError, match=r"^step 3: .*gradient norm (nan|inf)"):
        run(run_conf(tmp_path, corpus, **HALF))


@pytest.mark.parametrize("on_nan", ["stop", "skip"])
def test_an_infinite_loss_is_no_fault_of_the_scale(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch, on_nan: str
) -> None:
    """To leave such a step out ended in an assertion of the scaler's."""
    honest = LanguageModel.training_step

    def step(module: LanguageModel, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        objective = honest(module, batch, batch_idx)
        if module.trainer.global_step != 2:
            return objective
        module.losses[-1] = torch.tensor(torch.inf)
        return objective * torch.inf

    monkeypatch.setattr(LanguageModel, "training_step", step)
    conf = run_conf(tmp_path, corpus, **HALF, training__on_nan=on_nan, trainer__max_steps=4)
    if on_nan == "stop":
        with pytest.raises(UserError, match=r"^step 3: loss inf"):
            run(conf)
        return
    summary, _ = run(conf)
    assert (summary["skipped_steps"], summary["overflowed_steps"]) == (1, 0), summary


def test_resuming_keeps_the_scale_and_every_bit(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overflowing(monkeypatch, {1})
    whole, straight = run(run_conf(tmp_path, corpus, name="whole", **HALF))
    conf = run_conf(tmp_path, corpus, name="again", **HALF)
    interrupted(straight, RunFolder(folder_of(conf)), 4)
    (tmp_path / "again" / "config.yaml").unlink()  # which has the other's name
    again, resumed = run(conf)
    assert whole["overflowed_steps"] == again["overflowed_steps"] == 1
    assert whole["digest"] == again["digest"]
    ours, theirs = (read(saved(folder)[-1])["MixedPrecision"] for folder in (resumed, straight))
    assert ours == theirs and ours["scale"] == FIRST_SCALE / 2


def test_processes_share_scaled_steps(tmp_path: Path, corpus: Path) -> None:
    """Copies and shards train as one process does; all take part in finding what is infinite."""
    changes: dict[str, Any] = {
        **HALF,
        **CLIPPED,
        "trainer__accumulate_grad_batches": 2,
        "trainer__max_steps": 4,
        "trainer__val_check_interval": 4,
    }
    single = run(run_conf(tmp_path, corpus, name="one", **changes), "transformer")[1]
    confs = [
        run_conf(tmp_path, corpus, name=name, trainer__strategy=name, **changes)
        for name in ("ddp", "fsdp")
    ]
    assert not any(launch([Job(conf, "transformer") for conf in confs], tmp_path))
    for conf in confs:
        folder = RunFolder(folder_of(conf))
        for name in ("train/loss", "train/grad_norm", "val/loss"):
            expected = column(single, name)
            assert column(folder, name) == pytest.approx(expected, rel=5e-3), (conf.name, name)
        assert scale_in(read(saved(folder)[-1])) == FIRST_SCALE
