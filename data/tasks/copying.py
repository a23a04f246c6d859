"""Copying and reversal: random letters, a mark, and the same letters again, which are asked.

It asks for a memory of half of the context, letter by letter (Jelassi, Brandfonbrener, Kakade and
Malach 2024, arXiv 2402.01032, whose alphabet is the default; the task is that of Graves, Wayne and
Danihelka 2014, arXiv 1410.5401). Backwards, the letter to recall is another distance away at each
step, so that no window that moves along the string holds it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from string import ascii_lowercase
from typing import ClassVar

import numpy as np

from conf.schema import TOKENS, key
from data.tasks.draw import Draw
from data.tasks.task import put, shifted


@dataclass(frozen=True)
class Copying:
    """See `data.tasks.task.Task`. A context of T tokens has room for T // 2 letters."""

    version: ClassVar[int] = 2
    has_separator: ClassVar[bool] = True
    alphabet: int = key(26, "number of different letters", low=1, high=26)
    fewest: int = key(
        0,
        "fewest letters of a sequence, whose number is drawn; 0: always as many as fit",
        low=0,
        high=TOKENS,
    )

    @property
    def symbols(self) -> str:
        return "." + ascii_lowercase[: self.alphabet] + "|"

    def problems(self, length: int) -> Iterator[str]:
        if length // 2 < max(1, self.fewest):
            least = 2 * max(1, self.fewest)
            yield f"data.length={length}: {max(1, self.fewest)} letters to copy need {least}"

    def sequences(self, draw: Draw, length: int) -> tuple[np.ndarray, np.ndarray]:
        most = length // 2
        counts = draw.between(self.fewest or most, most)
        letters = 1 + draw.below(self.alphabet, most)  # 0 is the dot after the end
        rows = np.zeros((draw.rows, length + 1), dtype=np.int64)
        asked = np.zeros(rows.shape, dtype=bool)
        put(rows, np.zeros_like(counts), letters, counts)
        rows[np.arange(draw.rows), counts] = self.alphabet + 1
        put(rows, counts + 1, self._answers(letters, counts), counts)
        put(asked, counts + 1, np.ones_like(letters, dtype=bool), counts)
        return shifted(rows, asked)

    def _answers(self, letters: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """What is asked of the first `counts` `[N]` of `letters` `[N, K]`: int64 `[N, K]`."""
        return letters


@dataclass(frozen=True)
class Reversal(Copying):
    """See `Copying`: the letters are asked from the last to the first."""

    version: ClassVar[int] = 1

    def _answers(self, letters: np.ndarray, counts: np.ndarray) -> np.ndarray:
        places = counts[:, None] - 1 - np.arange(letters.shape[1])
        return np.take_along_axis(letters, np.maximum(places, 0), axis=1)
