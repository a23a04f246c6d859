"""The order of windows: every one once per epoch, any step at once."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from core.errors import UserError
from data.order import WindowOrder, permute


def index(**changes: int | str) -> WindowOrder:
    fields = {"tokens": 1000, "length": 8, "batch_size": 4, "fingerprint": "f", "seed": 0}
    return WindowOrder(**{**fields, **changes})


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
