"""Batches: pure, seekable, every window once, shared out exactly."""

from __future__ import annotations

import itertools
import pickle
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from conf.schema import DataConf
from core.errors import UserError
from data.batches import (
    Batches,
    all_validation,
    train_loader,
    validation_windows,
)
from data.store import Corpus, prepare


@pytest.fixture(scope="module")
def conf(tmp_path_factory: pytest.TempPathFactory) -> DataConf:
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "a.txt").write_text("".join(f"{i} bottles, " for i in range(400)))
    return DataConf(
        corpus="text",
        paths=[str(folder / "a.txt")],
        tokenizer="bytes",
        length=16,
        batch_size=4,
        val_fraction=0.1,
        cache_dir=str(folder / "cache"),
    )


@pytest.fixture(scope="module")
def corpus(conf: DataConf) -> Corpus:
    return prepare(conf)


def test_batch_is_the_tokens_at_its_starts(corpus: Corpus, conf: DataConf) -> None:
    batches = Batches(corpus, conf, seed=1)
    batch = batches[5]
    assert batch.shape == (4, 17) and batch.dtype == torch.int64
    for row, start in zip(batch, batches.order.places(5)[1], strict=True):
        assert row.tolist() == corpus.train[start : start + 17].tolist()


def test_batch_is_pure(corpus: Corpus, conf: DataConf) -> None:
    batches = Batches(corpus, conf, seed=1)
    forwards = [batches[step] for step in range(20)]
    fresh = Batches(prepare(conf), conf, seed=1)
    for step in (19, 3, 0, 11):
        assert torch.equal(fresh[step], forwards[step])
    assert not torch.equal(Batches(corpus, conf, seed=2)[0], forwards[0])


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_share_the_same_global_batch(corpus: Corpus, conf: DataConf, world: int) -> None:
    whole = Batches(corpus, conf, seed=0)[7]
    parts = [Batches(corpus, conf, seed=0, rank=rank, world=world)[7] for rank in range(world)]
    assert torch.equal(torch.cat(parts), whole)


def test_uneven_shares_are_refused(corpus: Corpus, conf: DataConf) -> None:
    with pytest.raises(UserError, match=r"batch_size=4 .* 3 processes"):
        Batches(corpus, conf, seed=0, world=3)


def test_open_dataset_is_pickled_without_its_tokens(corpus: Corpus, conf: DataConf) -> None:
    batches = Batches(corpus, conf, seed=0)
    first = batches[0]
    pickled = pickle.dumps(batches)
    assert len(pickled) < 1500
    assert torch.equal(pickle.loads(pickled)[0], first)


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_gives_the_steps_in_order(corpus: Corpus, conf: DataConf, workers: int) -> None:
    settings = DataConf(**{**vars(conf), "workers": workers})
    batches = Batches(corpus, conf, seed=3)
    loader = train_loader(corpus, settings, seed=3, start_step=10)
    loaded = list(itertools.islice(loader, 6))
    for step, batch in enumerate(loaded, start=10):
        assert torch.equal(batch, batches[step])


def test_loader_gives_a_rank_its_rows(corpus: Corpus, conf: DataConf) -> None:
    whole = train_loader(corpus, conf, seed=0, start_step=2)
    part = train_loader(corpus, conf, seed=0, start_step=2, rank=1, world=2)
    for all_rows, rows in itertools.islice(zip(whole, part, strict=True), 3):
        assert torch.equal(all_rows[2:], rows)


def test_loader_leaves_the_global_generator_alone(corpus: Corpus, conf: DataConf) -> None:
    before = torch.get_rng_state()
    list(itertools.islice(train_loader(corpus, conf, seed=0, start_step=0), 2))
    assert torch.equal(torch.get_rng_state(), before)


def counting(tokens: int) -> Any:
    """A corpus whose validation tokens are 0, 1, 2, ..."""
    val = np.arange(tokens, dtype=np.uint16)

    class Counting:
        __len__ = val.__len__

        @staticmethod
        def rows(starts: list[int], width: int) -> np.ndarray:
            return np.stack([val[start : start + width] for start in starts])

    return SimpleNamespace(val=Counting(), masked=False)


@pytest.mark.parametrize(("tokens", "batch"), [(41, 1), (41, 2), (50, 3), (48, 2), (9, 4), (5, 1)])
def test_all_validation_covers_all_but_the_first_once(tokens: int, batch: int) -> None:
    targets = []
    for inputs, wanted in all_validation(counting(tokens), length=8, batch=batch):
        assert inputs.dtype == torch.int64 and inputs.shape == wanted.shape
        assert torch.equal(inputs + 1, wanted)
        assert inputs.shape[0] <= batch and inputs.shape[1] <= 8
        targets += wanted.flatten().tolist()
    assert targets == list(range(1, tokens))


@pytest.mark.parametrize(("tokens", "count", "expected"), [(1000, 10, 10), (81, 99, 10), (9, 3, 1)])
def test_validation_windows_are_even_and_disjoint(tokens: int, count: int, expected: int) -> None:
    pairs = list(validation_windows(counting(tokens), length=8, count=count, batch=3))
    assert [len(inputs) for inputs, _ in pairs[:-1]] == [3] * (len(pairs) - 1)
    inputs, targets = (torch.cat(side) for side in zip(*pairs, strict=True))
    assert inputs.shape == targets.shape == (expected, 8)
    assert torch.equal(inputs + 1, targets)
    assert len(set(targets.flatten().tolist())) == targets.numel()
    gaps = inputs[:, 0].diff()
    assert gaps.numel() == 0 or gaps.max() - gaps.min() <= 1
    assert inputs[0, 0] == 0
    assert int(targets[-1, -1]) >= tokens - 1 - tokens // count


def test_validation_reads_the_file(corpus: Corpus, conf: DataConf) -> None:
    ((inputs, targets),) = validation_windows(corpus, conf.length, count=1)
    assert inputs[0].tolist() == corpus.val[:16].tolist()
    assert targets[0].tolist() == corpus.val[1:17].tolist()
