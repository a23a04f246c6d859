"""The order of a mixture: exact shares, every window of a part once per epoch of its own."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from core.errors import UserError
from data.growth import Growth
from data.mixed_order import MOST_ROWS, MixedOrder, fingerprint_of, quotas
from data.order import WindowOrder


def mix(rows: tuple[int, ...] = (7, 3), batch_size: int = 4, seed: int = 0) -> MixedOrder:
    parts = tuple(
        WindowOrder(100 + 57 * number, 8, batch_size, f"part {number}", seed)
        for number in range(len(rows))
    )
    names = tuple("abcdef"[: len(rows)])
    return MixedOrder(names, parts, rows, batch_size, "mixed", seed)


@pytest.mark.parametrize(
    ("weights", "rows"),
    [
        ({"a": 0.7, "b": 0.3}, {"a": 7, "b": 3}),
        ({"a": 7, "b": 3}, {"a": 7, "b": 3}),
        ({"a": 2.0, "b": 2.0}, {"a": 1, "b": 1}),
        ({"a": 0.333, "b": 0.667}, {"a": 333, "b": 667}),
        ({"a": 1e-3, "b": 0.999}, {"a": 1, "b": 999}),
        ({"a": 5.0}, {"a": 1}),
    ],
)
def test_quotas_are_exact(weights: dict[str, float], rows: dict[str, int]) -> None:
    assert quotas(weights) == rows


def test_shares_that_no_block_has_are_rounded() -> None:
    weights = {"a": 0.123456789, "b": 0.5, "c": 1 / 3}
    rows = quotas(weights)
    assert sum(rows.values()) == MOST_ROWS
    for name, weight in weights.items():
        assert abs(rows[name] / MOST_ROWS - weight / sum(weights.values())) < 1 / MOST_ROWS


@pytest.mark.parametrize(
    ("weights", "problem"),
    [
        ({"a": 0.0, "b": 1.0}, "must be above 0"),
        ({"a": -1.0}, "must be above 0"),
        ({"a": float("nan")}, "must be above 0"),
        ({"a": float("inf")}, "must be above 0"),
        ({"a": 1e-9, "b": 1.0}, "less than 1 in 4,096"),
    ],
)
def test_weights_without_a_meaning_are_refused(weights: dict[str, float], problem: str) -> None:
    with pytest.raises(UserError, match=rf"data\.mix\.a.*{problem}"):
        quotas(weights)


@pytest.mark.parametrize("rows", [(7, 3), (1, 1), (1, 999), (20, 5, 8), (1,)])
def test_every_block_has_the_exact_shares(rows: tuple[int, ...]) -> None:
    index = mix(rows)
    for block in (0, 1, 5, 10**9):
        first = block * index.block
        parts, _ = index.row_places(np.arange(first, first + index.block))
        assert np.bincount(parts).tolist() == list(rows)


@pytest.mark.parametrize("rows", [(7, 3), (2, 1), (20, 5, 8)])
def test_a_part_visits_its_own_rows_in_turn(rows: tuple[int, ...]) -> None:
    """Inside a block in any order; over whole blocks, exactly its plain order."""
    index, blocks = mix(rows), 40
    parts, starts = index.row_places(np.arange(blocks * index.block))
    for number, (part, quota) in enumerate(zip(index.parts, rows, strict=True)):
        read = starts[parts == number].reshape(blocks, quota)
        plain = part.row_starts(np.arange(blocks * quota)).reshape(blocks, quota)
        assert np.array_equal(np.sort(read), np.sort(plain))


def test_each_part_reads_each_of_its_windows_once_per_epoch() -> None:
    index = mix((2, 1))
    parts, starts = index.row_places(np.arange(3 * index.block * 40))
    for number, part in enumerate(index.parts):
        epoch = starts[parts == number][: part.windows // 2 * 2]
        windows = epoch // 8
        assert len(windows) < part.windows or len(set(windows.tolist())) >= part.windows - 2


def test_any_step_can_be_asked_for_at_once() -> None:
    index, one = mix(batch_size=6), mix(batch_size=1)
    for step in (10**12, 3, 0):
        parts, starts = index.places(step)
        singles = [one.places(6 * step + row) for row in range(6)]
        assert parts.tolist() == [int(part[0]) for part, _ in singles]
        assert starts.tolist() == [int(start[0]) for _, start in singles]


def test_blocks_differ_in_their_order() -> None:
    index = mix((50, 50))
    orders = [index.row_places(np.arange(b * 100, (b + 1) * 100))[0] for b in range(50)]
    assert len({order.tobytes() for order in orders}) == 50
    # The share of the first part is even over the places of a block.
    assert abs(np.mean(orders, axis=0) - 0.5).max() < 0.3
    assert not np.array_equal(orders[0], mix((50, 50), seed=1).row_places(np.arange(100))[0])


def test_one_part_is_the_plain_order() -> None:
    index = mix((1,))
    for step in (0, 1, 77):
        assert index.places(step)[0].tolist() == [0] * 4
        assert np.array_equal(index.places(step)[1], index.parts[0].starts(step))


def test_order_hash_is_over_parts_and_starts() -> None:
    parts = tuple(replace(part, tokens=10**6) for part in mix().parts)
    index = replace(mix(batch_size=70), parts=parts)
    total = hashlib.sha256(b"mixed 8 70")
    rows = 1000 * 70  # more than one chunk
    for first, last in ((0, 1 << 16), (1 << 16, rows)):
        for each in index.row_places(np.arange(first, last)):
            total.update(each.astype("<i8").tobytes())
    assert index.order_hash(1000) == total.hexdigest()[:16]
    assert len({index.order_hash(steps) for steps in range(20)}) == 20


def test_tokens_are_counted_by_part() -> None:
    index = mix()
    counted = [index.tokens_of(step) for step in range(5)]  # 20 rows: two blocks
    assert sum(each["a"] for each in counted) == 14 * 8
    assert sum(each["b"] for each in counted) == 6 * 8
    assert index.epochs(10 * 11) == {"a": 77 / 11, "b": 33 / index.parts[1].windows}
    growing = replace(index, growth=Growth(4, 8, 8, 8, 1))
    assert sum(growing.tokens_of(0).values()) == 1  # one row of one token at first
    assert sum(growing.tokens_of(8).values()) == 32


def test_a_message_names_part_and_place() -> None:
    index = mix()
    parts, starts = index.places(3)
    words = [f"{'ab'[part]} {start}" for part, start in zip(parts, starts, strict=True)]
    assert index.named(3) == words


def test_the_fingerprint_is_of_parts_and_shares_in_any_order() -> None:
    assert fingerprint_of([("x", 7), ("y", 3)]) == fingerprint_of([("y", 3), ("x", 7)])
    assert fingerprint_of([("x", 7), ("y", 3)]) != fingerprint_of([("x", 3), ("y", 7)])
