"""The average of the weights: its value, its bits under interruption, and where it can be used.

The model also drops and ties, so that one interrupted run proves all three.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from conf.schema import TrainConf
from core.errors import UserError
from models import load
from models.formats.load import read as read_weights
from scripts.cli.check import problems_of
from tests.registered_models import spec_of
from tests.training.runs import run_conf, write_corpus
from tracking.jsonl import read_rows
from training.checkpoints.find import read, saved
from training.checkpoints.plain import Unfit
from training.checkpoints.validation import check_whole
from training.loop.ema import kept_share
from training.loop.module import LanguageModel
from training.run import train
from training.run_folder.folder import RunFolder

MODEL = {"dropout": 0.1, "tie_embeddings": True}


class Killed(BaseException):
    pass


def run(conf: TrainConf) -> tuple[dict[str, Any], RunFolder]:
    folder = RunFolder.of(conf.runs_dir, None, "run")
    summary = train(conf, spec_of("transformer", **MODEL), folder)
    assert summary is not None
    return summary, folder


def averaged(folder: Path, corpus: Path, **changes: Any) -> TrainConf:
    changes = {"optim__ema": 0.5, "checkpoint__every_n_train_steps": 1, **changes}
    return run_conf(
        folder, corpus, checkpoint__keep="every:1", **{"trainer__max_steps": 5, **changes}
    )


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Iterator[RunFolder]:
    yield run(averaged(tmp_path_factory.mktemp("straight"), corpus))[1]


def test_it_averages_every_step_and_is_validated_beside(straight: RunFolder) -> None:
    states = [read(path) for path in saved(straight)]
    name = "model.blocks.0.ffn.down.weight"
    average = states[0]["ema"][name]
    for step, state in enumerate(states[1:], start=2):
        share = kept_share(0.5, step)
        average = share * average + (1 - share) * state["state_dict"][name]
        torch.testing.assert_close(state["ema"][name], average)
    assert kept_share(0.5, 1) == 2 / 11 and kept_share(0.5, 1000) == 0.5
    rows = [row for row in read_rows(straight.metrics) if "val/loss" in row]
    assert rows and all(row["val/ema_loss"] != row["val/loss"] for row in rows)
    summary = straight.summary()
    assert summary is not None and summary["val_ema_loss"] != summary["val_loss"]


def test_an_interruption_leaves_no_trace(
    straight: RunFolder, tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = LanguageModel.training_step

    def training_step(module: LanguageModel, batch: torch.Tensor, index: int) -> torch.Tensor:
        if module.trainer.global_step == 3:
            raise Killed
        return inner(module, batch, index)

    conf = averaged(tmp_path, corpus)
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(LanguageModel, "training_step", training_step)
        run(conf)
    summary, folder = run(conf)
    whole = straight.summary()
    assert whole is not None
    for key in ("digest", "val_loss", "val_ema_loss"):
        assert summary[key] == whole[key], key
    ends = [read(saved(each)[-1])["ema"] for each in (folder, straight)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_a_branch_may_begin_to_average_and_stop(
    straight: RunFolder, tmp_path: Path, corpus: Path
) -> None:
    parent = str(saved(straight)[1])
    without, folder = run(averaged(tmp_path / "a", corpus, init_from=parent, optim__ema=0.0))
    whole = straight.summary()
    assert whole is not None and without["val_ema_loss"] is None
    assert without["val_loss"] == whole["val_loss"]  # the average decides nothing
    again = averaged(tmp_path / "b", corpus, init_from=str(saved(folder)[0]))
    first = read(saved(run(again)[1])[0])
    start, share = read(saved(folder)[0]), kept_share(0.5, first["global_step"])
    name = "model.ln_out.weight"
    expected = share * start["state_dict"][name] + (1 - share) * first["state_dict"][name]
    torch.testing.assert_close(first["ema"][name], expected)


def test_a_training_may_begin_with_the_averages(
    straight: RunFolder,
    tmp_path: Path,
    corpus: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    content, begins = read(saved(straight)[-1]), {}

    def training_step(module: LanguageModel, batch: torch.Tensor, index: int) -> torch.Tensor:
        model: Any = module.model
        begins.update(model.state_dict())
        raise Killed

    for take, part in (("ema", "ema"), ("weights", "state_dict")):
        conf = averaged(tmp_path / take, corpus, init_from=str(straight.path), take=take)
        with monkeypatch.context() as patched, pytest.raises(Killed):
            patched.setattr(LanguageModel, "training_step", training_step)
            run(conf)
        assert all(torch.equal(begins[name], content[part][f"model.{name}"]) for name in begins)
    said = [record.getMessage() for record in caplog.records if "begins with" in record.message]
    assert "begins with the averaged weights of" in said[0] and "not with" not in said[0]
    assert said[1].endswith("not with its averages (optim.ema), which take=ema would")


def test_averages_that_are_not_there_are_refused_before_a_corpus_is_prepared(
    straight: RunFolder, tmp_path: Path, corpus: Path, caplog: pytest.LogCaptureFixture
) -> None:
    conf = averaged(tmp_path / "a", corpus, init_from=str(straight.path), optim__ema=0.0)
    conf.trainer.max_steps = 6
    _, folder = run(conf)
    assert "from step 5, without its averages (optim.ema=0)" in caplog.text
    conf = averaged(tmp_path / "b", corpus, init_from=str(folder.path), take="ema")
    conf.data.cache_dir = str(tmp_path / "cache")
    with pytest.raises(UserError, match=r"take=ema: .*step-00000006.ckpt has no averages"):
        run(conf)
    assert not (tmp_path / "cache").exists()
    conf = averaged(tmp_path / "c", corpus, init_from=str(folder.path), trainer__max_steps=7)
    run(conf)
    assert "from step 6; its averages begin with these weights" in caplog.text


def test_it_is_checked_and_can_be_used(straight: RunFolder) -> None:
    path = saved(straight)[-1]
    content, spec = read(path), spec_of("transformer", vocab=257, **MODEL)
    check_whole(content, spec, "32-true")
    average = load(straight.path, part="ema")
    held: Any = average
    assert torch.equal(held.emb.weight, content["ema"]["model.emb.weight"])
    assert held.head.weight is held.emb.weight
    raw = read_weights(path).tensors["emb.weight"]
    assert torch.equal(raw, content["state_dict"]["model.emb.weight"])
    del content["ema"]["model.ln_out.weight"]
    with pytest.raises(Unfit, match="ema has not the tensors of this model"):
        check_whole(content, spec, "32-true")
    del content["ema"]
    with pytest.raises(Unfit, match="ema is missing"):
        check_whole(content, spec, "32-true")


def test_what_has_no_average_says_so(tmp_path: Path, straight: RunFolder) -> None:
    with pytest.raises(UserError, match=r"weights=ema: .* is no run, and has no averages"):
        load(tmp_path / "model.safetensors", part="ema")
    words = ["optim.ema=0.9", "trainer.strategy=fsdp", "trainer.devices=2"]
    (problem,) = problems_of("train", words)
    assert "averages whole weights in fp32: not with trainer.strategy=fsdp" in problem
