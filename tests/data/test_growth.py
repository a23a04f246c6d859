"""Batches that grow: their sizes, their tokens, what is counted, and exact resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from conf.schema import DataConf, TrainConf
from core.errors import UserError
from data.batches import Batches
from data.growth import Growth, stage
from data.store import prepare
from models.meta import build_meta
from scripts.cli.check import problems_of
from tests.registered_models import spec_of
from tests.training.runs import run, run_conf, write_corpus
from tracking.jsonl import read_rows
from training.checkpoints.find import read, saved
from training.checkpoints.validation import check_whole
from training.loop.module import LanguageModel
from training.loop.monitor import Monitor


def test_sizes_follow_from_the_step() -> None:
    growth = Growth(16, 40, batch_steps=7, length_steps=14, accumulate=2)
    assert [growth.shape(step)[0] for step in range(9)] == [2, 4, 6, 8, 10, 12, 14, 16, 16]
    assert [growth.shape(step)[1] for step in range(0, 16, 2)] == [5, 10, 15, 20, 25, 30, 35, 40]
    assert [growth.shape_of(number) for number in (0, 1, 2, 3)] == [(2, 5), (2, 5), (4, 5), (4, 5)]
    assert Growth(3, 9, batch_steps=2).shape(0) == (1, 9)
    assert [stage(step, 3) for step in range(5)] == [1, 3, 5, 8, 8]
    assert Growth.of(DataConf(corpus="text"), 1) is None


def test_operations_are_counted_once_for_each_shape() -> None:
    asked: list[tuple[int, int]] = []

    def flops(rows: int, length: int) -> int:
        asked.append((rows, length))
        return rows * length

    monitor = Monitor(TrainConf(), 1.0)
    monitor.grow(Growth(8, 32, batch_steps=4, accumulate=2), flops)
    assert monitor._cost_of is not None
    costs = [monitor._cost_of(step) for step in range(100)]
    assert costs[0] == (64, 64) and set(costs[4:]) == {(512, 512)}
    assert len(asked) == len(set(asked)) == 5


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def test_a_small_batch_is_the_beginning_of_the_whole_one(tmp_path: Path, corpus: Path) -> None:
    conf = run_conf(tmp_path, corpus, data__batch_size=16).data
    whole = Batches(prepare(conf), conf, 0)
    conf.batch_warmup = conf.length_warmup = 4
    small = Batches(prepare(conf), conf, 0, accumulate=2)
    parts = [Batches(prepare(conf), conf, 0, rank, 2, accumulate=2) for rank in (0, 1)]
    for number, (rows, length) in enumerate([(2, 4), (2, 4), (4, 8), (4, 8)]):
        assert torch.equal(small[number], whole[number][:rows, : length + 1])
        assert torch.equal(torch.cat([part[number] for part in parts]), small[number])
    assert torch.equal(small[8], whole[8])
    assert small.order.order_hash(3) != whole.order.order_hash(3)
    with pytest.raises(UserError, match=r"make data\.batch_size a multiple of 32"):
        Batches(prepare(conf), conf, 0, 0, 4)


def test_sums_are_true_and_an_interruption_leaves_no_trace(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {"data__batch_warmup": 3, "data__length_warmup": 4}
    changes |= {"trainer__max_steps": 5, "trainer__accumulate_grad_batches": 2}
    changes |= {"checkpoint__every_n_train_steps": 2, "data__batch_size": 8}
    seen: list[tuple[int, int]] = []
    inner = LanguageModel.training_step

    def training_step(module: LanguageModel, batch: torch.Tensor, index: int) -> torch.Tensor:
        seen.append((len(batch), batch.shape[1] - 1))
        return inner(module, batch, index)

    with monkeypatch.context() as patched:
        patched.setattr(LanguageModel, "training_step", training_step)
        whole, folder = run(run_conf(tmp_path / "whole", corpus, **changes))
    assert seen[::2] == seen[1::2] == [(1, 4), (3, 8), (5, 16), (8, 24), (8, 32)]
    flops = build_meta(spec_of("rwkv4", vocab=257)).flops
    assert whole["tokens"] == sum(rows * length for rows, length in seen)
    assert whole["forward_flops"] == sum(flops(rows, length) for rows, length in seen)
    rows = [row for row in read_rows(folder.metrics) if "train/loss" in row]
    assert [row["train/tokens"] for row in rows] == [8, 56, 216, 600, 1112]

    def killed(module: LanguageModel, batch: torch.Tensor, index: int) -> torch.Tensor:
        if module.trainer.global_step == 3:
            raise KeyboardInterrupt
        return inner(module, batch, index)

    conf = run_conf(tmp_path / "broken", corpus, **changes)
    with monkeypatch.context() as patched, pytest.raises((KeyboardInterrupt, SystemExit)):
        patched.setattr(LanguageModel, "training_step", killed)
        run(conf)
    again, _ = run(conf)
    for key in ("digest", "tokens", "forward_flops", "order_hash", "val_loss"):
        assert again[key] == whole[key], key
    content = read(saved(folder)[-1])
    check_whole(content, spec_of("rwkv4", vocab=257), "32-true")
    assert content["crossover"]["ledger"]["order"]["length_warmup"] == 4


def test_what_cannot_be_shared_is_refused() -> None:
    words = ["data.batch_warmup=9", "trainer.devices=2"]
    (problem,) = problems_of("train", words)
    assert "make data.batch_size a multiple of 16" in problem
    words = ["data.length_warmup=9", "trainer.devices=2", "trainer.sequence_parallel=true"]
    (problem,) = problems_of("train", words)
    assert "not with data.length_warmup" in problem
