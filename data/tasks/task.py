"""What a synthetic task is: a rule that makes sequences, and says what of them is learned."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Task(Protocol):
    """A rule without state. Its sequences follow from random numbers alone."""

    version: int
    """Raise it when the same numbers would make other sequences."""
    symbols: str
    """The characters that occur, one token each; ids are places in the order of code points."""
    shortest: int
    """The least context length at which there is something to learn."""

    def sequences(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sequences of `numbers` `[N, T + 1]`, uint64 and uniform, one for each token.

        Returns ids, int64 `[N, T + 1]`, and which of them are learned, bool `[N, T + 1]`: those
        that what comes before decides.
        """
        ...
