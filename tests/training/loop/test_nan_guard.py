"""A loss or gradient that is no number stops the run before it does harm, or is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from core.errors import UserError
from tests.training.runs import run, run_conf, write_corpus
from tracking.jsonl import read_rows
from training.checkpoints.find import newest, saved
from training.loop.module import LanguageModel
from training.run_folder.folder import RunFolder

BROKEN = 5  # micro-batch; with two per optimizer step it belongs to step 3


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(params=["loss", "gradient"])
def broken(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Training in which one micro-batch has an infinite loss, or a NaN in its gradient."""
    honest = LanguageModel.training_step

    def step(module: LanguageModel, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        objective = honest(module, batch, batch_idx)
        trainer = module.trainer
        done = trainer.global_step * 2 + len(module.losses) - 1
        if done != BROKEN:
            return objective
        if request.param == "loss":
            module.losses[-1] = torch.tensor(torch.inf)
            return objective * torch.inf
        objective.register_hook(lambda gradient: gradient * torch.nan)
        return objective

    monkeypatch.setattr(LanguageModel, "training_step", step)
    return request.param


def conf(folder: Path, corpus: Path, **changes: Any) -> Any:
    settings = {"trainer__accumulate_grad_batches": 2, "trainer__max_steps": 4}
    return run_conf(
        folder,
        corpus,
        checkpoint__every_n_train_steps=1,
        trainer__val_check_interval=0,
        **settings | changes,
    )


def weights(folder: RunFolder) -> dict[str, Any]:
    path = newest(folder)
    assert path is not None
    return torch.load(path, weights_only=True)


def test_stop_names_step_batch_and_checkpoint(tmp_path: Path, corpus: Path, broken: str) -> None:
    with pytest.raises(UserError, match=r"^step 3: .*last good checkpoint is") as stopped:
        run(conf(tmp_path, corpus))
    text = str(stopped.value)
    assert ("Micro-batches 5:" if broken == "loss" else "Micro-batches 4, 5:") in text
    folder = RunFolder(tmp_path / "run")
    assert str(saved(folder)[-1]) in text and saved(folder)[-1].name == "step-00000002.ckpt"
    assert all(t.isfinite().all() for t in weights(folder)["state_dict"].values())
    assert [row["step"] for row in read_rows(folder.metrics)] == [1, 2]


def test_skip_leaves_the_step_out_and_counts_it(tmp_path: Path, corpus: Path, broken: str) -> None:
    summary, folder = run(conf(tmp_path, corpus, training__on_nan="skip", trainer__max_steps=3))
    assert summary["steps"] == 3 and summary["skipped_steps"] == 1
    first, last = (torch.load(path, weights_only=True) for path in saved(folder))
    assert first["global_step"] == 2
    for name, tensor in first["state_dict"].items():
        assert torch.equal(tensor, last["state_dict"][name]), name
    assert last["skipped_steps"] == 1
    row = read_rows(folder.metrics)[-1]
    assert row["train/skipped_steps"] == 1
    assert "Infinity" not in folder.metrics.read_text() and "NaN" not in folder.metrics.read_text()


def test_a_stopped_run_goes_on_with_skip_and_keeps_count(
    tmp_path: Path, corpus: Path, broken: str
) -> None:
    with pytest.raises(UserError):
        run(conf(tmp_path / "a", corpus))
    summary, resumed = run(conf(tmp_path / "a", corpus, training__on_nan="skip"))
    _, straight = run(conf(tmp_path / "b", corpus, training__on_nan="skip"))
    assert summary["skipped_steps"] == 1
    resumed_weights, other = weights(resumed), weights(straight)
    assert resumed_weights["skipped_steps"] == other["skipped_steps"] == 1
    for name, tensor in resumed_weights["state_dict"].items():
        assert torch.equal(tensor, other["state_dict"][name]), name
