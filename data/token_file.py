"""A file of tokens of a prepared corpus, each block of which is proven before its first use.

It is read and not mapped: touching the page of a map that its file has no more, or that a disk
cannot give, ends the process with SIGBUS, and no check before the touch excludes it. The pages are
the kernel's either way, in memory once for all processes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from core.errors import UserError
from core.parsing import regular
from data.file_change_guard import FileChangeGuard
from data.manifest import Blocks

_AT_ONCE = 1 << 30  # bytes; the kernel reads no more than 2 GiB in one call


class TokenFile:
    """Token ids, or which of them are learned. `file[start:stop]` reads; raises `UserError`.

    That is if the file is no longer what was prepared. Processes and threads may share one.
    """

    def __init__(self, path: Path, dtype: str, blocks: Blocks, watch: FileChangeGuard) -> None:
        self.dtype = np.dtype(dtype)
        self._path, self._blocks, self._watch = path, blocks, watch
        self._changed = 0  # when the kernel last saw a change of the file, as of the proofs

    def __len__(self) -> int:
        return self._blocks.size // self.dtype.itemsize

    def __getitem__(self, places: slice) -> np.ndarray:
        """The tokens from a place to another: `[T]`."""
        start, stop, step = places.indices(len(self))
        if step != 1:
            raise ValueError("tokens are read one after the other")
        return self.rows([start], max(0, stop - start))[0]

    def rows(self, starts: Sequence[int] | np.ndarray, width: int) -> np.ndarray:
        """The `width` tokens from each of `starts` `[N]` on: `[N, width]`."""
        self._watch.check()
        rows = np.empty((len(starts), width), self.dtype)
        size = width * self.dtype.itemsize
        places = [int(start) * self.dtype.itemsize for start in starts] if size else []
        with regular(self._path) as file:
            descriptor = file.fileno()
            while True:
                changed = os.fstat(descriptor).st_ctime_ns
                if changed != self._changed:  # whoever writes can set the other time back
                    self._blocks.forget()
                self._blocks.prove(lambda *place: self._content(descriptor, *place), places, size)
                for row, place in zip(rows, places, strict=False):
                    row[:] = np.frombuffer(self._content(descriptor, place, size), self.dtype)
                self._watch.check()  # and after it, so that what was read is what was prepared
                self._changed = changed
                if os.fstat(descriptor).st_ctime_ns == changed:
                    return rows

    def _content(self, descriptor: int, place: int, size: int) -> bytes:
        """So many bytes from a place on."""
        parts = []
        while size:
            part = os.pread(descriptor, min(size, _AT_ONCE), place)
            if not part:
                self._watch.check()
                raise UserError(f"{self._path} ends at byte {place:,}, before what is read of it")
            parts.append(part)
            place, size = place + len(part), size - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)
