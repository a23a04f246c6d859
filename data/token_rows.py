"""Rows of tokens of a prepared corpus; each block of a file is proven before its first use."""

from __future__ import annotations

from typing import Any

import numpy as np

from data.meta import MASK_DTYPE
from data.store import Corpus


class TokenRows:
    """Reads windows of the training tokens of a corpus; each process opens the files itself."""

    def __init__(self, corpus: Corpus) -> None:
        self._watch, self._folder = corpus.watch, corpus.folder
        self._blocks = {name: each for name, each in corpus.blocks.items() if "train" in name}
        self._dtypes = {"train.bin": corpus.meta.dtype, "train.mask": MASK_DTYPE}
        self._masked = corpus.masked
        self._files: dict[str, np.memmap] = {}

    def tokens(self, starts: np.ndarray, width: int) -> np.ndarray:
        """The `width` tokens from each of `starts` `[N]` on: int64 `[N, width]`.

        Raises `UserError` if the file is no longer what was prepared.
        """
        return self._read("train.bin", starts, width).astype(np.int64)

    def mask(self, starts: np.ndarray, width: int) -> np.ndarray:
        """1 for each of these tokens that is learned, else 0: `[N, width]`. Raises likewise."""
        if not self._masked:
            return np.ones((len(starts), width), dtype=MASK_DTYPE)
        return self._read("train.mask", starts, width)

    def _read(self, name: str, starts: np.ndarray, width: int) -> np.ndarray:
        self._watch.check()  # before reading, or a file cut short would end the process
        if name not in self._files:
            self._files[name] = np.memmap(self._folder / name, self._dtypes[name], mode="r")
        file = self._files[name]
        places = (starts * file.itemsize).tolist()
        self._blocks[name].prove(file.view(np.uint8), places, width * file.itemsize)
        rows = file[starts[:, None] + np.arange(width)]
        self._watch.check()  # and after it, so that what was read is what was prepared
        return rows

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}
