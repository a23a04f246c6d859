"""Trainings of adapters and of a state: what lies in their folders, and who goes on from it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import models
from conf.schema import TrainConf
from core.errors import UserError
from core.files import recorded_digest
from models.formats.load import read as read_weights
from models.tuning import LORA, STATE
from tests.training.runs import run, run_conf
from training.checkpoints.find import read, saved
from training.run_folder.folder import RunFolder

LINES = {"trainer__max_steps": 4, "checkpoint__every_n_train_steps": 2, "tune__rank": 4}


def conf_of(folder: Path, corpus: Path, source: Path, mode: str, **changes: Any) -> TrainConf:
    settings = {"tune__mode": mode, "init_from": str(source), "optim__lr": 0.01, "name": mode}
    if mode != LORA:
        settings["tune__rank"] = 32
    return run_conf(folder, corpus, **LINES | settings | changes)


class Tuned:
    """One run of each kind that begins with the same parent, whose averages are kept too."""

    def __init__(self, folder: Path, corpus: Path, parent: RunFolder) -> None:
        self.folder, self.corpus, self.parent = folder, corpus, parent
        self.summaries, self.folders = {}, {}
        for mode in (LORA, STATE):
            conf = conf_of(folder, corpus, parent.path, mode, optim__ema=0.5)
            self.summaries[mode], self.folders[mode] = run(conf)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, corpus: Path, parent: RunFolder) -> Tuned:
    return Tuned(tmp_path_factory.mktemp("tuned"), corpus, parent)


@pytest.mark.parametrize("mode", [LORA, STATE])
def test_a_checkpoint_holds_what_is_trained_alone(tuned: Tuned, mode: str) -> None:
    folder, summary = tuned.folders[mode], tuned.summaries[mode]
    content = read(saved(folder)[-1])
    trained = content["state_dict"]
    word = ".lora_" if mode == LORA else "initial."
    assert trained and all(word in name for name in trained)
    assert content["ema"].keys() == trained.keys()
    assert len(content["optimizer_states"][0]["state"]) == len(trained)
    count = sum(each.numel() for each in trained.values())
    whole = models.load(tuned.parent.path)
    before = sum(each.numel() for each in whole.parameters())  # type: ignore[attr-defined]
    assert (summary["trained_parameters"], summary["parameters"]) == (count, before + count)
    assert content["crossover"]["tuned"]["frozen"] == recorded_digest(folder.frozen)
    assert summary["parent"]["sha256"] == recorded_digest(saved(tuned.parent)[-1])
    # What it spares is a pass of products over the weights, from whose gradients others learn.
    own = summary["own_forward_flops"]
    assert 0.5 * own < summary["spared_flops"] < own
    frozen = read_weights(folder.frozen).tensors
    for name, tensor in read_weights(tuned.parent.path).tensors.items():
        assert torch.equal(frozen[name], tensor)
    if mode == LORA:  # a state hardly moves in so few steps
        assert summary["val_loss"] != summary["val_ema_loss"]


@pytest.mark.parametrize("mode", [LORA, STATE])
def test_one_that_was_interrupted_ends_in_the_same_bits(
    tuned: Tuned, mode: str, tmp_path: Path
) -> None:
    whole = tuned.folders[mode]
    shutil.copytree(whole.path, tmp_path / mode)
    copy = RunFolder(tmp_path / mode)
    copy.summary_path.unlink()
    for path in copy.checkpoints.glob("step-00000004*"):
        path.unlink()
    # What it began with may be gone by then.
    source = tuned.parent.path
    conf = conf_of(tmp_path, tuned.corpus, source, mode, optim__ema=0.5)
    hidden = source.rename(source.with_name("hidden"))
    try:
        summary, _ = run(conf)
    finally:
        hidden.rename(source)
    assert summary["digest"] == tuned.summaries[mode]["digest"]

    for path in copy.checkpoints.glob("step-00000004*"):
        path.unlink()
    copy.summary_path.unlink()
    copy.frozen.write_bytes(copy.frozen.read_bytes()[:-1] + b"!")
    with pytest.raises(UserError, match=r"frozen.safetensors, which cannot be used .*SHA-256"):
        run(conf)


@pytest.mark.parametrize("mode", [LORA, STATE])
def test_whoever_opens_the_run_has_what_it_learned(tuned: Tuned, mode: str) -> None:
    folder, tokens = tuned.folders[mode], torch.arange(40)[None]
    before: Any = models.load(tuned.parent.path)
    after: Any = models.load(folder.path)
    averaged: Any = models.load(folder.path, part="ema")
    with torch.no_grad():
        logits = [model(tokens)[0] for model in (before, after, averaged)]
        again = after.next_logits(tokens, after.init_state(1))[0]
    assert not torch.allclose(logits[0], logits[1], atol=1e-6)
    assert not torch.equal(logits[1], logits[2])
    torch.testing.assert_close(again, logits[1][:, -1], atol=2e-5, rtol=2e-5)


def test_a_branch_has_the_weights_of_its_parent(tuned: Tuned, tmp_path: Path) -> None:
    """`from=` a run of adapters goes on with them, and needs nothing of it any more."""
    source = f"{tuned.folders[LORA].path}@2"
    conf = conf_of(tmp_path, tuned.corpus, Path(source), LORA, optim__ema=0.5)
    summary, folder = run(conf)
    assert summary["parent"]["take"] == "everything"
    assert summary["digest"] == tuned.summaries[LORA]["digest"]
    assert recorded_digest(folder.frozen) == recorded_digest(tuned.folders[LORA].frozen)


def test_another_tuning_begins_with_the_merged_weights(tuned: Tuned, tmp_path: Path) -> None:
    lora = tuned.folders[LORA].path
    merged = read_weights(lora).tensors
    for changes in ({"tune__rank": 2}, {"tune__mode": "full", "tune__rank": 32}):
        conf = conf_of(tmp_path, tuned.corpus, lora, LORA, trainer__max_steps=2, **changes)
        conf.name = f"again-{conf.tune.mode}"
        summary, folder = run(conf)
        assert summary["parent"]["take"] == "weights"
        if conf.tune.mode == LORA:
            frozen = read_weights(folder.frozen).tensors
            assert all(torch.equal(frozen[name], each) for name, each in merged.items())
    conf.name, conf.take = "third", "everything"
    with pytest.raises(UserError, match="of other parts of the model than tune=full"):
        run(conf)


def test_a_learned_state_is_taken_over_or_refused(tuned: Tuned, tmp_path: Path) -> None:
    source = tuned.folders[STATE].path
    conf = conf_of(tmp_path, tuned.corpus, source, STATE, optim__lr=0.0, optim__final_lr=0.0)
    conf.take = "weights"
    summary, folder = run(conf)
    assert summary["parent"]["take"] == "weights"
    ours, theirs = read_weights(folder.path), read_weights(source)
    assert ours.initial and all(
        torch.equal(ours.initial[name], each) for name, each in theirs.initial.items()
    )
    conf = conf_of(tmp_path, tuned.corpus, source, LORA)
    with pytest.raises(UserError, match="tune=lora would lose it: use tune=state"):
        run(conf)
