"""Selective copying: a few tokens, scattered among noise, asked in their order at the end.

The places change from row to row, so that what is kept must depend on what is read (Mamba, Gu and
Dao 2023, arXiv 2312.00752, table 1 and its settings: 16 tokens in 4,096, vocabulary 16).
"""

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
class SelectiveCopying:
    """See `data.tasks.task.Task`. The first symbol is the noise, the last asks for a token."""

    version: ClassVar[int] = 1
    has_separator: ClassVar[bool] = False
    tokens: int = key(16, "number of tokens to copy", low=1, high=TOKENS)
    vocabulary: int = key(
        16, "number of symbols, noise and question included", low=3, high=MOST_SYMBOLS
    )

    @property
    def symbols(self) -> str:
        return numbered(self.vocabulary)

    def problems(self, length: int) -> Iterator[str]:
        if length < 2 * self.tokens:
            yield (
                f"data.length={length}: {self.tokens} tokens and as many questions need "
                f"{2 * self.tokens}"
            )

    def sequences(self, draw: Draw, length: int) -> tuple[np.ndarray, np.ndarray]:
        count, end = self.tokens, length - self.tokens
        inputs = np.zeros((draw.rows, length), dtype=np.int64)
        targets = np.full(inputs.shape, IGNORE, dtype=np.int64)
        places = np.sort(draw.some(end, count), axis=1)
        tokens = 1 + draw.below(self.vocabulary - 2, count)
        np.put_along_axis(inputs, places, tokens, axis=1)
        inputs[:, end:] = self.vocabulary - 1
        targets[:, end:] = tokens
        return inputs, targets
