"""States of prompts that were read before, by their content: what two prompts share is read once.

A state is kept after every whole chunk of a prompt and after the prompt itself. Keys are digests of
the tokens read so far, so a prompt finds the longest beginning that any earlier one had.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from models.contract import State, clone_state, state_bytes


class Kept(NamedTuple):
    """A state, the logits `[V]` after it, and the bytes that both take."""

    state: State
    logits: Tensor
    bytes: int


class PrefixCache:
    """The states used last, within `room` bytes."""

    def __init__(self, room: int, chunk: int) -> None:
        self._room, self._chunk = room, chunk
        self._kept: OrderedDict[bytes, Kept] = OrderedDict()
        self.bytes = 0

    def find(self, keys: Mapping[int, bytes]) -> tuple[int, State, Tensor] | None:
        """The longest beginning of a prompt, given as `keys`, that is known: its length, state and
        logits `[V]`."""
        for length in sorted(keys, reverse=True):
            kept = self._kept.get(keys[length])
            if kept is not None:
                self._kept.move_to_end(keys[length])
                return length, clone_state(kept.state), kept.logits
        return None

    def keep(self, key: bytes, state: State, logits: Tensor) -> None:
        """Keep the state after a beginning of a prompt, under its key."""
        size = state_bytes(state) + logits.nbytes
        if size > self._room or key in self._kept:
            return
        self._kept[key] = Kept(clone_state(state), logits.clone(), size)
        self.bytes += size
        while self.bytes > self._room:
            self.bytes -= self._kept.popitem(last=False)[1].bytes

    def keys(self, prompt: Sequence[int]) -> dict[int, bytes]:
        """Digests of the beginnings that may be kept, by their length in tokens."""
        digest, keys = hashlib.sha256(), {}
        for start in range(0, len(prompt), self._chunk):
            part = prompt[start : start + self._chunk]
            digest.update(array("q", part).tobytes())
            keys[start + len(part)] = digest.digest()
        return keys
