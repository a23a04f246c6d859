"""Copying: random letters, a mark, and the same letters again, which are learned.

It asks for a memory of half of the context, letter by letter (as the copying task of Graves, Wayne
and Danihelka 2014, arXiv 1410.5401, section 4.1).
"""

from __future__ import annotations

import numpy as np

LETTERS = "abcdefghijklmnop"


class Copying:
    """See `data.tasks.task.Task`. In a context of T tokens there are T // 2 letters to copy."""

    version = 1
    symbols = LETTERS + "|"
    shortest = 2

    def sequences(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mark = len(LETTERS)  # the last in the order of code points
        count = (numbers.shape[1] - 1) // 2
        tokens = np.full(numbers.shape, mark, dtype=np.int64)
        copy = slice(count + 1, 2 * count + 1)
        tokens[:, :count] = tokens[:, copy] = numbers[:, :count] % len(LETTERS)
        learned = np.zeros(numbers.shape, dtype=bool)
        learned[:, copy] = True
        return tokens, learned
