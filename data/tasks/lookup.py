"""Look-up: a string, a key that stands in it, and what follows the key there, which is asked.

With the key first, what to remember is known before the string is read, and a state of fixed size
suffices; with the key last, all of the string must be kept (Jelassi et al. 2024, arXiv 2402.01032).
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
class Lookup:
    """See `data.tasks.task.Task`. `key|string|answer.` or `string|keyanswer.`, dots at the end.

    Where the key occurs several times, the first one counts.
    """

    version: ClassVar[int] = 1
    has_separator: ClassVar[bool] = False
    alphabet: int = key(26, "number of different letters", low=2, high=26)
    ngram: int = key(3, "letters of the key", low=1, high=TOKENS)
    answer: int = key(
        0, "letters that are asked; 0: all that follow the key in the string", low=0, high=TOKENS
    )
    place: str = key(
        "prefix", "prefix: the key comes before the string; suffix: after it",
        choices=("prefix", "suffix"),
    )  # fmt: skip
    fewest: int = key(
        0,
        "fewest letters of a string, whose number is drawn; 0: always as many as fit",
        low=0,
        high=TOKENS,
    )

    @property
    def symbols(self) -> str:
        return "." + ascii_lowercase[: self.alphabet] + "|"

    @property
    def _shortest(self) -> int:
        """Letters of the shortest string: a key and an answer."""
        return self.ngram + (self.answer or 1)

    def _most(self, length: int) -> int:
        """Letters of the longest string of which all fits into `length` + 1 tokens."""
        room = length + 1 - (2 if self.place == "prefix" else 1)
        return room - self.ngram - self.answer if self.answer else room // 2

    def problems(self, length: int) -> Iterator[str]:
        least = max(self._shortest, self.fewest)
        if self.fewest and self.fewest < self._shortest:
            yield (
                f"data.task.fewest={self.fewest}: a key of {self.ngram} letters and an answer of "
                f"{self.answer or 1} need {self._shortest}"
            )
        elif self._most(length) < least:
            yield (
                f"data.length={length} has room for strings of {max(0, self._most(length))} "
                f"letters, and {least} are needed"
            )

    def sequences(self, draw: Draw, length: int) -> tuple[np.ndarray, np.ndarray]:
        most, count, n = self._most(length), draw.rows, self.ngram
        sizes = draw.between(self.fewest or most, most)
        letters = 1 + draw.below(self.alphabet, most)  # 0 is the dot after the end
        begins = draw.below(sizes - self._shortest + 1, 1)[:, 0]
        keys = np.take_along_axis(letters, begins[:, None] + np.arange(n), axis=1)
        windows = np.lib.stride_tricks.sliding_window_view(letters, n, axis=1)
        ends = (windows == keys[:, None]).all(axis=2).argmax(axis=1) + n  # of the first of them
        answers = np.take_along_axis(
            letters, np.minimum(ends[:, None] + np.arange(most - n), most - 1), axis=1
        )
        sought = np.full(count, self.answer) if self.answer else sizes - ends

        rows = np.zeros((count, length + 1), dtype=np.int64)
        asked = np.zeros(rows.shape, dtype=bool)
        every, bar, zeros = np.arange(count), self.alphabet + 1, np.zeros(count, dtype=np.int64)
        whole_key = np.full(count, n)
        if self.place == "prefix":
            put(rows, zeros, keys, whole_key)
            rows[:, n] = bar
            put(rows, zeros + n + 1, letters, sizes)
            rows[every, n + 1 + sizes] = bar
            first = n + 2 + sizes
        else:
            put(rows, zeros, letters, sizes)
            rows[every, sizes] = bar
            put(rows, sizes + 1, keys, whole_key)
            first = sizes + 1 + n
        put(rows, first, answers, sought)
        put(asked, first, np.ones(answers.shape, dtype=bool), sought)
        return shifted(rows, asked)
