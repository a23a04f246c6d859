"""Rows of the training tokens of a prepared corpus, and of its mask."""

from __future__ import annotations

import numpy as np

from data.meta import MASK_DTYPE
from data.store import Corpus


class TokenRows:
    """Reads windows of the training tokens of a corpus. Raises `UserError` if they have changed."""

    def __init__(self, corpus: Corpus) -> None:
        self._tokens = corpus.train
        self._mask = corpus.train_mask if corpus.masked else None

    def tokens(self, starts: np.ndarray, width: int) -> np.ndarray:
        """The `width` tokens from each of `starts` `[N]` on: int64 `[N, width]`."""
        return self._tokens.rows(starts, width).astype(np.int64)

    def mask(self, starts: np.ndarray, width: int) -> np.ndarray:
        """1 for each of these tokens that is learned, else 0: `[N, width]`."""
        if self._mask is None:
            return np.ones((len(starts), width), dtype=MASK_DTYPE)
        return self._mask.rows(starts, width)
