"""The tasks of the Neural Turing Machine: copying, repeated copying and associative recall.

Graves, Wayne and Danihelka 2014, arXiv 1410.5401, sections 4.1 to 4.3. A vector of random bits is
one token of 2^bits: so it takes one step and one slot of a memory, as there, and costs `bits` bits
to guess, in which losses are told. While the answer is asked nothing is read but blanks, as there:
what was asked before is no input, so that all of it must have been kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from conf.schema import TOKENS, key
from data.meta import IGNORE
from data.tasks.draw import Draw
from data.tasks.task import numbered, put

MOST_BITS = 14
"""2^14 symbols and the marks are fewer than `numbered` makes."""


def _empty(draw: Draw, length: int, blank: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs that are blank and targets of which none is asked, int64 `[N, T]` each."""
    shape = (draw.rows, length)
    return np.full(shape, blank), np.full(shape, IGNORE)


@dataclass(frozen=True)
class VectorCopying:
    """See `data.tasks.task.Task`. Vectors, a mark, and blanks, from the mark on the vectors are
    asked. A context of T tokens has room for T // 2 vectors."""

    version: ClassVar[int] = 1
    has_separator: ClassVar[bool] = False  # whose target would be read
    bits: int = key(8, "bits of a vector", low=1, high=MOST_BITS)
    fewest: int = key(
        1,
        "fewest vectors of a sequence, whose number is drawn; 0: always as many as fit",
        low=0,
        high=TOKENS,
    )

    @property
    def symbols(self) -> str:
        return numbered(2**self.bits + 2)

    def problems(self, length: int) -> Iterator[str]:
        least = max(1, self.fewest)
        if length // 2 < least:
            yield f"data.length={length}: {least} vectors to copy need {2 * least}"

    def sequences(self, draw: Draw, length: int) -> tuple[np.ndarray, np.ndarray]:
        blank, most = 2**self.bits, length // 2
        inputs, targets = _empty(draw, length, blank)
        counts = draw.between(self.fewest or most, most)
        vectors = draw.below(blank, most)
        put(inputs, np.zeros_like(counts), vectors, counts)
        inputs[np.arange(draw.rows), counts] = blank + 1
        put(targets, counts, vectors, counts)
        return inputs, targets


@dataclass(frozen=True)
class RepeatCopying:
    """See `data.tasks.task.Task`. Vectors, as many marks as they are to be repeated, and blanks;
    from the last mark on all repetitions are asked, and a blank after them.

    The number is said by marks and not by a token of its own, so that one never trained has a
    meaning.
    """

    version: ClassVar[int] = 1
    has_separator: ClassVar[bool] = False
    bits: int = key(8, "bits of a vector", low=1, high=MOST_BITS)
    vectors: int = key(10, "most vectors of a sequence", low=1, high=TOKENS)
    fewest: int = key(1, "fewest vectors of a sequence; 0: as the most", low=0, high=TOKENS)
    repeats: int = key(10, "most repetitions", low=1, high=TOKENS)
    fewest_repeats: int = key(1, "fewest repetitions; 0: as the most", low=0, high=TOKENS)

    @property
    def symbols(self) -> str:
        return numbered(2**self.bits + 2)

    def problems(self, length: int) -> Iterator[str]:
        for name, fewest, most in (
            ("fewest", self.fewest, self.vectors),
            ("fewest_repeats", self.fewest_repeats, self.repeats),
        ):
            if fewest > most:
                yield f"data.task.{name}={fewest} must not exceed the most, {most}"
        least = self.vectors + self.repeats + self.vectors * self.repeats
        if length < least:
            yield (
                f"data.length={length}: {self.vectors} vectors {self.repeats} times need {least}"
            )

    def sequences(self, draw: Draw, length: int) -> tuple[np.ndarray, np.ndarray]:
        blank = 2**self.bits
        inputs, targets = _empty(draw, length, blank)
        counts = draw.between(self.fewest or self.vectors, self.vectors)
        repeats = draw.between(self.fewest_repeats or self.repeats, self.repeats)
        vectors = draw.below(blank, self.vectors)
        marks = np.full((draw.rows, self.repeats), blank + 1)
        put(inputs, np.zeros_like(counts), vectors, counts)
        put(inputs, counts, marks, repeats)
        places = np.arange(self.vectors * self.repeats) % counts[:, None]
        first = counts + repeats - 1  # where an answer begins
        put(targets, first, np.take_along_axis(vectors, places, axis=1), counts * repeats)
        targets[np.arange(draw.rows), first + counts * repeats] = blank
        return inputs, targets


@dataclass(frozen=True)
class AssociativeRecall:
    """See `data.tasks.task.Task`. Items of a few vectors, a mark before each; then one of them
    between two other marks, and blanks: from the last mark on the item that followed it is asked.

    Where the item occurs several times, the first one counts.
    """

    version: ClassVar[int] = 1
    has_separator: ClassVar[bool] = False
    bits: int = key(6, "bits of a vector", low=1, high=MOST_BITS)
    item: int = key(3, "vectors of an item", low=1, high=TOKENS)
    items: int = key(6, "most items of a sequence", low=2, high=TOKENS)
    fewest: int = key(2, "fewest items of a sequence; 0: as the most", low=0, high=TOKENS)

    @property
    def symbols(self) -> str:
        return numbered(2**self.bits + 3)

    def problems(self, length: int) -> Iterator[str]:
        if self.fewest == 1 or self.fewest > self.items:
            yield (
                f"data.task.fewest={self.fewest} must be at least 2, for one item follows another, "
                f"and not exceed the most, {self.items}"
            )
        least = self.items * (self.item + 1) + 2 * self.item + 1
        if length < least:
            yield f"data.length={length}: {self.items} items of {self.item} vectors need {least}"

    def sequences(self, draw: Draw, length: int) -> tuple[np.ndarray, np.ndarray]:
        blank, size = 2**self.bits, self.item
        inputs, targets = _empty(draw, length, blank)
        counts = draw.between(self.fewest or self.items, self.items)
        items = draw.below(blank, self.items * size).reshape(draw.rows, self.items, size)
        asked = draw.below(counts - 1, 1)[:, 0]
        every, zeros = np.arange(draw.rows), np.zeros_like(counts)
        query = items[every, asked]  # [N, size]
        found = (items == query[:, None]).all(axis=2).argmax(axis=1)  # the first of them
        marks = np.full((draw.rows, self.items, 1), blank + 1)
        listed = np.concatenate((marks, items), axis=2).reshape(draw.rows, -1)
        put(inputs, zeros, listed, counts * (size + 1))
        ends = counts * (size + 1)
        inputs[every, ends] = inputs[every, ends + size + 1] = blank + 2
        whole = np.full_like(counts, size)
        put(inputs, ends + 1, query, whole)
        put(targets, ends + size + 1, items[every, found + 1], whole)
        return inputs, targets
