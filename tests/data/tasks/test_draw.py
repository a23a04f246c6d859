"""Random numbers of rows: independent of their company, different, and as likely as they should."""

from __future__ import annotations

import numpy as np

from data.tasks.draw import Draw

ROWS = 20_000


def draw(rows: int = ROWS) -> Draw:
    return Draw(np.arange(rows, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))


def likely(counts: np.ndarray, expected: np.ndarray | float) -> bool:
    return bool((np.abs(counts - expected) < 5 * np.sqrt(expected)).all())


def test_a_row_does_not_depend_on_the_others() -> None:
    starts = np.array([5, 17, 2**63], dtype=np.uint64)
    together = Draw(starts)
    first, second = together.some(100, 7), together.below(np.array([3, 50, 9]), 4)
    for row, limit in enumerate((3, 50, 9)):
        alone = Draw(starts[row : row + 1])
        assert np.array_equal(alone.some(100, 7)[0], first[row])
        assert np.array_equal(alone.below(limit, 4)[0], second[row])


def test_numbers_are_the_same_on_every_machine() -> None:
    numbers = Draw(np.array([0, 1], dtype=np.uint64))
    assert numbers.numbers(2).tolist() == [
        [16294208416658607535, 7960286522194355700],
        [10451216379200822465, 13757245211066428519],
    ]
    assert numbers.below(10, 3).tolist() == [[9, 4, 7], [0, 5, 1]]


def test_some_are_different_and_every_order_is_as_likely() -> None:
    few = draw().some(4, 2)
    assert (few[:, 0] != few[:, 1]).all()
    counts = np.bincount(few[:, 0] * 4 + few[:, 1], minlength=16).reshape(4, 4)
    assert likely(counts[~np.eye(4, dtype=bool)], ROWS / 12)
    every = np.sort(draw(50).some(9, 9), axis=1)
    assert (every == np.arange(9)).all()


def test_weights_are_shares_of_what_is_left() -> None:
    weights = np.array([1.0, 2.0, 5.0])
    chosen = draw().weighted(weights, 2)
    assert likely(np.bincount(chosen[:, 0]), ROWS * weights / 8)
    after = chosen[chosen[:, 0] == 2, 1]
    assert likely(np.bincount(after), len(after) * np.array([1, 2]) / 3)
    assert not np.array_equal(chosen[0], chosen[1])


def test_uniform_numbers_are_inside_the_interval() -> None:
    numbers = draw(1000).uniform(3)
    assert numbers.min() > 0 and numbers.max() < 1 and abs(numbers.mean() - 0.5) < 0.03
