"""Random numbers for the rows of a task: each row's follow from its own start alone."""

from __future__ import annotations

import numpy as np

from data.order import SPLITMIX_STEP, scramble


class Draw:
    """The numbers of N rows, drawn a few columns at a time; equal on every machine.

    The rows do not see each other: whichever are drawn together, each gets the same numbers.
    """

    def __init__(self, starts: np.ndarray) -> None:
        """`starts` `[N]`, uint64, decide all numbers of their rows."""
        self._starts, self._used = starts, 0

    @property
    def rows(self) -> int:
        """Number of rows N."""
        return len(self._starts)

    def numbers(self, count: int) -> np.ndarray:
        """The next `count` numbers of each row: uint64 `[N, count]`, uniform."""
        steps = np.arange(self._used + 1, self._used + count + 1, dtype=np.uint64)
        self._used += count
        return scramble(self._starts[:, None] + steps * SPLITMIX_STEP)

    def below(self, limit: int | np.ndarray, count: int) -> np.ndarray:
        """Integers from 0 to `limit` - 1, which may be one for each row `[N]`: `[N, count]`."""
        limits = np.asarray(limit, dtype=np.uint64).reshape(-1, 1)
        return (self.numbers(count) % limits).astype(np.int64)

    def between(self, fewest: int, most: int) -> np.ndarray:
        """One integer from `fewest` to `most` for each row: `[N]`."""
        return fewest + self.below(most - fewest + 1, 1)[:, 0]

    def uniform(self, count: int) -> np.ndarray:
        """Numbers in the open interval from 0 to 1: float64 `[N, count]`."""
        return ((self.numbers(count) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53

    def some(self, limit: int, count: int) -> np.ndarray:
        """`count` different integers from 0 to `limit` - 1 in random order: `[N, count]`.

        A set by Floyd's algorithm (Bentley and Floyd 1987), and then an order: both exactly
        uniform, in time and memory that do not grow with `limit`.
        """
        chosen = np.full((self.rows, count), -1, dtype=np.int64)
        for place, last in enumerate(range(limit - count, limit)):
            drawn = self.below(last + 1, 1)
            is_taken = (chosen == drawn).any(axis=1)
            chosen[:, place] = np.where(is_taken, last, drawn[:, 0])
        order = np.argsort(self.numbers(count), axis=1, kind="stable")
        return np.take_along_axis(chosen, order, axis=1)

    def weighted(self, weights: np.ndarray, count: int) -> np.ndarray:
        """`count` different places of `weights` `[K]`, each next one with its share of what is
        left: `[N, count]`. Exponential times of arrival (Efraimidis and Spirakis 2006)."""
        arrivals = -np.log(self.uniform(len(weights))) / weights
        return np.argsort(arrivals, axis=1, kind="stable")[:, :count]
