"""Batches: pure, seekable, every window once, shared out exactly."""

from __future__ import annotations

import hashlib
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
    BatchIndex,
    all_validation,
    permute,
    train_loader,
    validation_windows,
)
from data.file_change_guard import FileChangeGuard
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


def index(**changes: int | str) -> BatchIndex:
    fields = {"tokens": 1000, "length": 8, "batch_size": 4, "fingerprint": "f", "seed": 0}
    return BatchIndex(**{**fields, **changes})


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 17, 100, 255, 256, 257, 4097, 70_000])
def test_permutation_is_a_bijection(size: int) -> None:
    for keys in ([1, 2, 3, 4, 5, 6], [2**64 - 1, 0, 7, 2**63, 9, 11]):
        image = permute(np.arange(size), size, keys)
        assert np.array_equal(np.sort(image), np.arange(size))


def test_permutation_looks_random() -> None:
    size = 10_000
    one_epoch = index(tokens=size + 1, length=1, batch_size=size)
    image, other = (one_epoch.starts(step) for step in (0, 1))
    for first, second in ((np.arange(size), image), (image, other), (image[1:], image[:-1])):
        assert abs(np.corrcoef(first, second)[0, 1]) < 0.04  # 4 standard deviations
    assert np.abs(np.diff(image)).mean() == pytest.approx(size / 3, rel=0.05)


def test_permutation_of_a_huge_range() -> None:
    size = 10**15 + 37
    image = permute(np.arange(0, size, size // 1000), size, [1, 2, 3, 4, 5, 6])
    assert image.min() >= 0 and image.max() < size and len(set(image.tolist())) == image.size


@pytest.mark.parametrize("tokens", [9, 10, 16, 17, 24, 25, 100, 1001])
def test_an_epoch_visits_every_window_once(tokens: int) -> None:
    batches = index(tokens=tokens, batch_size=1)
    for epoch in range(3):
        steps = range(epoch * batches.windows, (epoch + 1) * batches.windows)
        starts = np.sort(np.concatenate([batches.starts(step) for step in steps]))
        assert np.array_equal(np.diff(starts), np.full(batches.windows - 1, batches.length))
        assert starts[0] >= 0 and starts[-1] + batches.length + 1 <= tokens


@pytest.mark.parametrize("tokens", [9, 40, 47, 48, 49])
def test_every_token_is_a_target_in_some_epoch(tokens: int) -> None:
    batches = index(tokens=tokens, batch_size=1)
    seen: set[int] = set()
    for step in range(200 * batches.windows):
        start = int(batches.starts(step)[0])
        seen.update(range(start + 1, start + 1 + batches.length))
    assert seen == set(range(1, tokens))


def test_epochs_differ_in_offset_and_order() -> None:
    batches = index(batch_size=1)
    epochs = np.array(
        [
            [batches.starts(e * batches.windows + i)[0] for i in range(batches.windows)]
            for e in (0, 1)
        ]
    )
    assert len(set((epochs % batches.length)[:, 0])) == 2
    assert not np.array_equal(*(epochs // batches.length))


def test_a_batch_may_span_epochs() -> None:
    rows = index(batch_size=1)
    wide = index(batch_size=3 * rows.windows + 1)
    expected = [rows.starts(step)[0] for step in range(2 * wide.batch_size)]
    assert [*wide.starts(0), *wide.starts(1)] == expected


def test_too_few_tokens_are_refused() -> None:
    with pytest.raises(UserError, match="too few"):
        index(tokens=8)


@pytest.mark.parametrize("change", [{"seed": 1}, {"fingerprint": "g"}, {"length": 7}])
def test_order_depends_on_seed_corpus_and_length(change: dict[str, int]) -> None:
    assert not np.array_equal(index().starts(3), index(**change).starts(3))
    assert index().order_hash(5) != index(**change).order_hash(5)


def test_order_hash_is_of_exactly_the_first_steps() -> None:
    assert index().order_hash(40) == index().order_hash(40)
    assert len({index().order_hash(steps) for steps in range(50)}) == 50
    assert index(batch_size=5).order_hash(40) != index().order_hash(40)


def test_order_hash_does_not_depend_on_its_chunks() -> None:
    batches = index(batch_size=70)
    steps = 1000  # 70,000 rows: more than one chunk
    total = hashlib.sha256(b"f 8 70")
    for step in range(steps):
        total.update(batches.starts(step).astype("<i8").tobytes())
    assert batches.order_hash(steps) == total.hexdigest()[:16]


def test_batch_is_the_tokens_at_its_starts(corpus: Corpus, conf: DataConf) -> None:
    batches = Batches(corpus, conf, seed=1)
    batch = batches[5]
    assert batch.shape == (4, 17) and batch.dtype == torch.int64
    for row, start in zip(batch, batches.index.starts(5), strict=True):
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
    return SimpleNamespace(
        val=np.arange(tokens, dtype=np.uint16), masked=False, watch=FileChangeGuard([])
    )


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


def test_validation_reads_the_memory_map(corpus: Corpus, conf: DataConf) -> None:
    ((inputs, targets),) = validation_windows(corpus, conf.length, count=1)
    assert inputs[0].tolist() == corpus.val[:16].tolist()
    assert targets[0].tolist() == corpus.val[1:17].tolist()
