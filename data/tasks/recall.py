"""Recall by content: associative recall of several queries, and induction heads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from conf.schema import TOKENS, key
from data.meta import IGNORE
from data.tasks.draw import Draw
from data.tasks.task import MOST_SYMBOLS, numbered


@dataclass(frozen=True)
class Recall:
    """MQAR: pairs of key and value, then each key again, where its value is asked.

    As in Zoology (Arora et al. 2023, arXiv 2312.04927; `multiquery_ar` of its code): keys are
    different ids from 1 to V / 2 - 1, values different ones from V / 2 on; a key comes again at a
    gap of even length whose distribution falls as a power; a value is never an input there.
    """

    version: ClassVar[int] = 1
    has_separator: ClassVar[bool] = False
    pairs: int = key(4, "pairs of key and value", low=1, high=TOKENS)
    vocabulary: int = key(
        8192, "number of symbols, keys and values together", low=4, high=MOST_SYMBOLS
    )
    power: float = key(0.01, "gaps g have weights g^(power - 1)", low=0, high=100)
    noise: bool = key(True, "other tokens are random ones; false: the token 0")

    @property
    def symbols(self) -> str:
        return numbered(self.vocabulary)

    def problems(self, length: int) -> Iterator[str]:
        pairs, vocabulary = self.pairs, self.vocabulary
        if length % 2 or length < 4 * pairs:
            yield f"data.length={length}: {pairs} pairs and their queries need an even {4 * pairs}"
        if vocabulary // 2 - 1 < pairs or vocabulary <= length:
            least = max(2 * pairs + 2, length + 1)
            yield (
                f"data.task.vocabulary={vocabulary} is too small for {pairs} pairs in {length} "
                f"tokens: at least {least}"
            )

    def sequences(self, draw: Draw, length: int) -> tuple[np.ndarray, np.ndarray]:
        pairs, half, begin = self.pairs, self.vocabulary // 2, 2 * self.pairs
        keys = 1 + draw.some(half - 1, pairs)
        values = half + draw.some(self.vocabulary - half, pairs)
        inputs = np.zeros((draw.rows, length), dtype=np.int64)
        targets = np.full(inputs.shape, IGNORE, dtype=np.int64)
        inputs[:, 0:begin:2], inputs[:, 1:begin:2] = keys, values
        gaps = np.arange(1, (length - begin) // 2 + 1, dtype=np.float64)
        places = begin + 2 * draw.weighted(gaps ** (self.power - 1), pairs)
        np.put_along_axis(inputs, places, keys, axis=1)
        np.put_along_axis(targets, places, values, axis=1)
        if self.noise:
            inputs = np.where(inputs == 0, draw.below(self.vocabulary, length), inputs)
        return inputs, targets


@dataclass(frozen=True)
class Induction:
    """Induction heads: a mark, once within random tokens and once at the end, where the token that
    followed it is asked (Mamba, Gu and Dao 2023, arXiv 2312.00752, table 11 and its settings)."""

    version: ClassVar[int] = 1
    has_separator: ClassVar[bool] = False
    vocabulary: int = key(16, "number of symbols, the mark included", low=3, high=MOST_SYMBOLS)

    @property
    def symbols(self) -> str:
        return numbered(self.vocabulary)

    def problems(self, length: int) -> Iterator[str]:
        if length < 3:
            yield f"data.length={length}: mark, token and mark need 3"

    def sequences(self, draw: Draw, length: int) -> tuple[np.ndarray, np.ndarray]:
        mark, every = self.vocabulary - 1, np.arange(draw.rows)
        inputs = draw.below(mark, length)
        places = draw.below(length - 2, 1)[:, 0]
        inputs[every, places] = inputs[:, -1] = mark
        targets = np.full(inputs.shape, IGNORE, dtype=np.int64)
        targets[:, -1] = inputs[every, places + 1]
        return inputs, targets
