"""Trainings on a synthetic task: what is learned, how much is right, and that resuming is exact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conf.schema import TrainConf, WeightsConf
from core.errors import UserError
from data.tasks import task_data
from data.tasks.copying import Copying
from data.tasks.task_data import TaskData, heldout_rows
from models import load
from tests.training.runs import run, run_conf
from tracking.jsonl import read_rows
from training.checkpoints.find import saved
from training.checkpoints.open_model import open_model

SUMS = 1e-5  # of fp32 rounding between two ways to sum the same gradients


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_data, "VALIDATED", 600)


def task_conf(folder: Path, **changes: Any) -> TrainConf:
    words: dict[str, Any] = {"corpus": "copy", "paths": [], "tokenizer": "chars", "length": 12}
    words = {f"data__{name}": value for name, value in words.items()}
    return run_conf(folder, folder / "none", **{**words, **changes})


def test_a_task_is_trained_measured_and_resumed(tmp_path: Path) -> None:
    conf = task_conf(tmp_path)
    summary, folder = run(conf)
    rows = list(read_rows(folder.metrics))
    validated = [row for row in rows if "val/loss" in row]
    assert validated and all(0 <= row["val/accuracy"] <= 1 for row in validated)
    assert not any("bits_per_byte" in key for row in rows for key in row)
    assert (summary["tokens"], summary["trained_tokens"]) == (8 * 4 * 12, 8 * 4 * 6)
    assert summary["val_bits_per_byte"] is None and summary["unigram_entropy"] is None

    inputs, targets = heldout_rows(TaskData("copy", Copying(), 12), 0, 50)
    logits, _ = load(folder.path)(torch.from_numpy(inputs))
    right = logits.argmax(-1).numpy() == targets
    asked = targets >= 0
    assert summary["val_accuracy"] == pytest.approx(np.mean(right[asked]), abs=1e-12)
    assert summary["val_exact_match"] == np.mean((right | ~asked).all(axis=1))
    bits = summary["val_loss"] * 6 / np.log(2)  # of the 6 letters of a sequence
    assert summary["val_bits_per_sequence"] == pytest.approx(bits)
    assert all("val/bits_per_sequence" in row for row in validated)

    folder.summary_path.unlink()
    for checkpoint in saved(folder)[1:]:
        checkpoint.unlink()
    again, _ = run(conf)
    for key in (
        "digest",
        "val_loss",
        "val_accuracy",
        "val_exact_match",
        "order_hash",
        "trained_tokens",
    ):
        assert again[key] == summary[key], key


@pytest.mark.parametrize(
    "model", ["seq2seq separator=27 selection=hard", "encdec separator=27"], ids=["hard", "encdec"]
)
def test_an_encoder_decoder_trains_and_resumes_exactly(tmp_path: Path, model: str) -> None:
    """Choices that are drawn in a training step included: random numbers are resumed too."""
    conf = task_conf(tmp_path, data__corpus="reversal", data__task={"fewest": 2})
    summary, folder = run(conf, model)
    folder.summary_path.unlink()
    for checkpoint in saved(folder)[1:]:
        checkpoint.unlink()
    again, _ = run(conf, model)
    for key in ("digest", "val_loss", "val_accuracy", "order_hash", "trained_tokens"):
        assert again[key] == summary[key], key


def test_images_are_made_judged_shown_and_resumed_exactly(tmp_path: Path) -> None:
    """Two networks and a game, in the loop of all models: the noise and the norms are resumed."""
    words = {"data__corpus": "two_blobs", "data__length": 49, "data__task": {"places": 1}}
    conf = task_conf(tmp_path, **words, training__sample_every=4)
    summary, folder = run(conf, "sagan n_embd=8")
    validated = [row for row in read_rows(folder.metrics) if "val/loss" in row]
    assert validated and all(0 <= row["val/exact_match"] <= row["val/formed"] for row in validated)
    assert summary["val_loss"] is None and 0 <= summary["val_exact_match"] <= 1
    lines = (folder.path / "samples.jsonl").read_text().splitlines()
    shown = [json.loads(line)["text"].split("\n") for line in lines]
    assert len(shown) == 2 and all(len(image) == 7 == len(image[0]) for image in shown)
    with pytest.raises(UserError, match="makes whole images and reads no text"):
        open_model(WeightsConf(run=str(folder.path), accelerator="cpu"))

    folder.summary_path.unlink()
    for checkpoint in saved(folder)[1:]:
        checkpoint.unlink()
    again, _ = run(conf, "sagan n_embd=8")
    for key in ("digest", "val_exact_match", "val_formed", "order_hash"):
        assert again[key] == summary[key], key


def test_longer_sequences_validate_beside_the_others(tmp_path: Path) -> None:
    """With curves and figures of their own, while a row of each is as long as it says."""
    words = {"x2": {"length": 24}}
    conf = task_conf(tmp_path, data__validation=words, data__workers=2)
    summary, folder = run(conf)
    rows = [row for row in read_rows(folder.metrics) if "val/loss" in row]
    names = ("val/x2/loss", "val/x2/accuracy", "val/x2/exact_match", "val/exact_match")
    assert all(name in row for row in rows for name in names)
    inputs, targets = heldout_rows(TaskData("copy", Copying(), 24), 0, 25)
    logits, _ = load(folder.path)(torch.from_numpy(inputs))
    right = (logits.argmax(-1).numpy() == targets)[targets >= 0]
    assert summary["validation"]["x2"]["accuracy"] == pytest.approx(np.mean(right), abs=1e-12)
    alone, _ = run(task_conf(tmp_path / "alone"))
    assert summary["digest"] == alone["digest"]  # neither they nor workers change what is learned


def test_a_task_can_be_learned(tmp_path: Path) -> None:
    """Two letters, copied: above what guessing one of 26 letters gives."""
    changes = {"data__batch_size": 64, "trainer__max_steps": 70, "optim__lr": 1e-2}
    changes |= {"trainer__val_check_interval": 0, "trainer__log_every_n_steps": 70}
    conf = task_conf(tmp_path, **changes)
    conf.data.length = 4
    summary, _ = run(conf, "transformer")
    assert summary["val_accuracy"] > 0.5


@pytest.mark.parametrize(
    "changes",
    [
        {"trainer__devices": 2, "trainer__sequence_parallel": True},
        {"training__segment": 4},
    ],
)
def test_however_it_is_read_the_same_is_right(tmp_path: Path, changes: dict[str, Any]) -> None:
    whole, _ = run(task_conf(tmp_path / "whole", trainer__max_steps=3), "rwkv7")
    other, folder = run(task_conf(tmp_path / "other", trainer__max_steps=3, **changes), "rwkv7")
    assert other["val_loss"] == pytest.approx(whole["val_loss"], rel=SUMS)
    assert other["val_accuracy"] == pytest.approx(whole["val_accuracy"], abs=0.02)
    assert other["val_exact_match"] == whole["val_exact_match"]
    (row,) = (row for row in read_rows(folder.metrics) if "val/accuracy" in row)
    assert 0 <= row["val/accuracy"] <= 1
