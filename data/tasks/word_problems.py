"""Word problems of groups: at each token, the product of all elements read so far is asked.

Merrill, Petty and Sabharwal 2024, arXiv 2404.08819 (A5, A4 x Z5 and Z60, all of order 60). S3 and
Z2, which is parity, are small enough for minutes on a CPU.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np

from conf.schema import key
from data.tasks.draw import Draw
from data.tasks.task import numbered

Permutation = tuple[int, ...]
GROUPS = ("S3", "A5", "A4xZ5", "Z60", "Z2")


@cache
def elements(group: str) -> tuple[Permutation, ...]:
    """The elements of a group as permutations, in lexical order: the identity is the first.

    Those of a product of groups act on the one's points, and then on the other's.
    """
    if "x" in group:
        left, right = (elements(part) for part in group.split("x"))
        size = len(left[0])
        return tuple(a + tuple(size + i for i in b) for a in left for b in right)
    kind, number = group[0], int(group[1:])
    if kind == "Z":
        turns = range(number)
        return tuple(tuple((i + turn) % number for i in turns) for turn in turns)
    every = itertools.permutations(range(number))
    return tuple(one for one in every if kind == "S" or _is_even(one))


def _is_even(permutation: Permutation) -> bool:
    pairs = itertools.combinations(permutation, 2)
    return sum(a > b for a, b in pairs) % 2 == 0


def product(a: Permutation, b: Permutation) -> Permutation:
    """First `b`, then `a`."""
    return tuple(a[i] for i in b)


@cache
def table(group: str) -> np.ndarray:
    """Numbers of the products: `table[a, b]` is that of a b, int64 `[order, order]`."""
    members = elements(group)
    number = {element: i for i, element in enumerate(members)}
    return np.array([[number[product(a, b)] for b in members] for a in members])


@dataclass(frozen=True)
class WordProblem:
    """See `data.tasks.task.Task`. A symbol for each element of the group."""

    version: ClassVar[int] = 1
    has_separator: ClassVar[bool] = False
    group: str = key("A5", "group whose elements are multiplied", choices=GROUPS)

    @property
    def symbols(self) -> str:
        return numbered(len(elements(self.group)))

    def problems(self, length: int) -> Iterator[str]:
        yield from ()

    def sequences(self, draw: Draw, length: int) -> tuple[np.ndarray, np.ndarray]:
        products = table(self.group)
        inputs = draw.below(len(products), length)
        targets = np.empty_like(inputs)
        so_far = np.zeros(draw.rows, dtype=np.int64)
        for place in range(length):
            so_far = targets[:, place] = products[so_far, inputs[:, place]]
        return inputs, targets


@dataclass(frozen=True)
class Parity(WordProblem):
    """Whether the number of ones so far is odd: the word problem of Z2."""

    group: str = key("Z2", "group whose elements are multiplied", choices=GROUPS)
