"""Sorting and convex hull: numbers or points, a mark, and the places of the source that are asked.

The tasks of pointer networks (Vinyals, Fortunato and Jaitly 2015, arXiv 1506.03134), on a grid: an
answer names items of the source by their places, `a` the first, `b` the second, and so on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from string import ascii_lowercase, ascii_uppercase, digits
from typing import ClassVar

import numpy as np

from conf.schema import key
from data.tasks.draw import Draw
from data.tasks.task import put, shifted

VALUES = digits + ascii_uppercase
PLACES = ascii_lowercase


class Places:
    """What both have in common: `items` of the source, of `item` tokens each, named by places."""

    version: ClassVar[int] = 1
    has_separator: ClassVar[bool] = True
    item: ClassVar[int]
    places: ClassVar[int] = len(PLACES)
    values: int
    fewest: int

    @property
    def symbols(self) -> str:
        return "." + VALUES[: self.values] + PLACES + "|"

    def written(
        self,
        length: int,
        items: np.ndarray,
        counts: np.ndarray,
        answers: np.ndarray,
        answered: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets `[N, T]`, T = `length`, of the first `counts` `[N]` of items
        `[N, K, item]`, and the first `answered` `[N]` of places `[N, A]`; both count from 0."""
        rows = np.zeros((len(items), length + 1), dtype=np.int64)
        asked = np.zeros(rows.shape, dtype=bool)
        ends = self.item * counts
        put(rows, np.zeros_like(counts), 1 + items.reshape(len(items), -1), ends)  # 0 is the dot
        rows[np.arange(len(rows)), ends] = len(self.symbols) - 1
        put(rows, ends + 1, 1 + self.values + answers, answered)
        put(asked, ends + 1, np.ones_like(answers, dtype=bool), answered)
        return shifted(rows, asked)

    def too_many(self, different: int, kind: str) -> Iterator[str]:
        """What is wrong with `fewest`, of items of which there are so many different ones."""
        most = min(self.places, different)
        if self.fewest > most:
            yield f"data.task.fewest={self.fewest}: at most {most} {kind}, which have a place each"


@dataclass(frozen=True)
class Sorting(Places):
    """See `data.tasks.task.Task`: different numbers, of which the places of the least, the next and
    so on are asked. A context of T tokens has room for T // 2, and there are 26 places."""

    item: ClassVar[int] = 1
    values: int = key(36, "number of different numbers", low=2, high=len(VALUES))
    fewest: int = key(
        0,
        "fewest numbers of a sequence, whose number is drawn; 0: always as many as fit",
        low=0,
        high=len(PLACES),
    )

    def problems(self, length: int) -> Iterator[str]:
        least = max(1, self.fewest)
        yield from self.too_many(self.values, "numbers")
        if length // 2 < least:
            yield f"data.length={length}: {least} numbers to sort need {2 * least}"

    def sequences(self, draw: Draw, length: int) -> tuple[np.ndarray, np.ndarray]:
        most = min(length // 2, self.places, self.values)
        counts = draw.between(self.fewest or most, most)
        numbers = draw.some(self.values, most)
        is_there = np.arange(most) < counts[:, None]
        order = np.argsort(np.where(is_there, numbers, self.values), axis=1, kind="stable")
        return self.written(length, numbers[..., None], counts, order, counts)


@dataclass(frozen=True)
class ConvexHull(Places):
    """See `data.tasks.task.Task`: different points of a grid, of which the corners of their convex
    hull are asked, counterclockwise from the leftmost, the lower one of two, until it comes again.
    A context of T tokens has room for (T - 1) // 3, and there are 26 places."""

    item: ClassVar[int] = 2
    values: int = key(36, "number of different coordinates", low=2, high=len(VALUES))
    fewest: int = key(
        0,
        "fewest points of a sequence, whose number is drawn; 0: always as many as fit",
        low=0,
        high=len(PLACES),
    )

    def problems(self, length: int) -> Iterator[str]:
        least = max(2, self.fewest)
        yield from self.too_many(self.values**2, "points")
        if (length - 1) // 3 < least:
            yield f"data.length={length}: {least} points and their hull need {3 * least + 1}"

    def sequences(self, draw: Draw, length: int) -> tuple[np.ndarray, np.ndarray]:
        most = min((length - 1) // 3, self.places, self.values**2)
        counts = draw.between(self.fewest or most, most)
        cells = draw.some(self.values**2, most)
        points = np.stack((cells // self.values, cells % self.values), axis=-1)
        corners, answered = hulls(points, counts)
        return self.written(length, points, counts, corners, answered)


def hulls(points: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The corners of the hull of the first `counts` `[N]` of different points `[N, K, 2]`, two at
    least: places `[N, K + 1]`, and how many they are `[N]`, the first one again at the end.

    The next corner is the point with all others to the left of the way there, and the farthest of
    those in one line (Jarvis 1973).
    """
    size, most = points.shape[:2]
    rows = np.arange(size)
    is_there = np.arange(most) < counts[:, None]
    far = points.max() + 1
    ranks = np.where(is_there, points[..., 0] * far + points[..., 1], far * far)
    start = ranks.argmin(axis=1)
    corners, answered = np.zeros((size, most + 1), dtype=np.int64), np.ones(size, dtype=np.int64)
    corners[:, 0] = here = start
    goes_on = np.ones(size, dtype=bool)
    for step in range(1, most + 1):
        offset = points - points[rows, here][:, None]  # [N, K, 2]
        cross = offset[:, :, None, 0] * offset[:, None, :, 1]
        cross = cross - offset[:, :, None, 1] * offset[:, None, :, 0]  # [N, K, K]: > 0 is left
        length = np.square(offset).sum(axis=-1)
        is_worse = (cross < 0) | ((cross == 0) & (length[:, None] > length[:, :, None]))
        is_next = ~(is_worse & is_there[:, None]).any(axis=2) & is_there & (length > 0)
        here = is_next.argmax(axis=1)
        corners[:, step] = np.where(goes_on, here, 0)
        answered += goes_on
        goes_on &= here != start
    return corners, answered
