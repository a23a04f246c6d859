"""Which tokens belong to which step: a pure function of (corpus fingerprint, seed, step).

An epoch lays a grid of windows over the training tokens at a random offset and visits each window
once, in pseudo-random order. Row r of the endless list of windows is window `r % windows` of epoch
`r // windows`; step s takes rows `s * batch_size` onwards. With a magic prime, row r is the window
that RWKV-LM reads as its sample r (`data.magic_prime`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from core.errors import UserError
from data.growth import Growth
from data.magic_prime import window_of

SPLITMIX_STEP = np.uint64(0x9E3779B97F4A7C15)
"""2^64 over the golden ratio, which SplitMix64 adds from one number to the next."""
ROUNDS = 6  # of the Feistel network; 4 already look random (Luby and Rackoff 1988)


class Order(Protocol):
    """Where the rows of every batch start: `WindowOrder`, or `data.mixed_order.MixedOrder`."""

    @property
    def length(self) -> int: ...

    @property
    def batch_size(self) -> int: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def growth(self) -> Growth | None: ...

    def places(self, step: int) -> tuple[np.ndarray, np.ndarray]: ...

    def named(self, step: int) -> list[str]: ...

    def order_hash(self, steps: int) -> str: ...


@dataclass(frozen=True)
class WindowOrder:
    """Where each batch starts. Holds no tokens, so it costs nothing to copy to a worker."""

    tokens: int
    """Training tokens of the corpus."""
    length: int
    """Context length T; a window is T + 1 tokens, its inputs and its targets one later."""
    batch_size: int
    """Rows of a batch over all processes."""
    fingerprint: str
    """Fingerprint of the corpus."""
    seed: int
    growth: Growth | None = None
    """How many of its rows and tokens a batch really has, where they grow."""
    prime: int = 0
    """The magic prime of RWKV-LM's order; 0: the order above."""

    def __post_init__(self) -> None:
        if self.tokens < self.length + 1:
            raise UserError(f"{self.tokens} tokens are too few for data.length={self.length}")

    @property
    def windows(self) -> int:
        """Windows of an epoch. Neighbours share one token, the last target of the earlier one.

        One window fewer than would fit, so that the grid can start anywhere in the first T tokens.
        """
        if self.prime:
            return self.prime
        return max(1, (self.tokens - self.length) // self.length)

    def starts(self, step: int) -> np.ndarray:
        """First token of each window of the batch at `step`: int64 `[B]`."""
        return self.row_starts(rows_of(step, self.batch_size))

    def places(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The part of the data that each window is of, here 0, and its first token: int64 `[B]`."""
        starts = self.starts(step)
        return np.zeros(len(starts), dtype=np.int64), starts

    def named(self, step: int) -> list[str]:
        """The windows of a batch as a message names them: their first tokens."""
        return [str(start) for start in self.starts(step).tolist()]

    def order_hash(self, steps: int) -> str:
        """16 hex digits over the first `steps` batches: equal for equal tokens in equal order."""
        return hash_of_rows(self, steps, lambda rows: [self.row_starts(rows)])

    def row_starts(self, rows: np.ndarray) -> np.ndarray:
        """First token of each of `rows` of the endless list of windows: int64 `[N]`."""
        if self.prime:
            return window_of(rows, self.prime) * self.length
        epochs, places = np.divmod(rows, self.windows)
        starts = np.empty_like(rows)
        for epoch in np.unique(epochs):
            offset_key, *keys = self._keys(int(epoch))
            offset = offset_key % (self.tokens - self.windows * self.length)
            here = epochs == epoch
            starts[here] = offset + permute(places[here], self.windows, keys) * self.length
        return starts

    def _keys(self, epoch: int) -> list[int]:
        """The random numbers of an epoch, 64 bits each: one for the offset, one per round."""
        return random_numbers(f"{self.fingerprint} {self.seed} {epoch}", 1 + ROUNDS)


def rows_of(step: int, batch_size: int) -> np.ndarray:
    """Numbers of the rows of the batch at `step`: int64 `[B]`."""
    return np.arange(step * batch_size, (step + 1) * batch_size)


def shape_of(order: Order, step: int) -> tuple[int, int]:
    """Rows over all processes, and tokens of each, of the batch at `step`."""
    if order.growth is None:
        return order.batch_size, order.length
    return order.growth.shape_of(step)


def hash_of_rows(
    order: Order, steps: int, columns: Callable[[np.ndarray], Iterable[np.ndarray]]
) -> str:
    """16 hex digits over what `columns` says of each row of the first `steps` batches."""
    total = hashlib.sha256(f"{order.fingerprint} {order.length} {order.batch_size}".encode())
    if order.growth is not None:
        total.update(repr(order.growth).encode())
    rows = steps * order.batch_size
    for first in range(0, rows, 1 << 16):
        for column in columns(np.arange(first, min(rows, first + (1 << 16)))):
            total.update(column.astype("<i8").tobytes())
    return total.hexdigest()[:16]


def random_numbers(name: str, count: int) -> list[int]:
    """`count` numbers of 64 bits that follow from a name."""
    digest = hashlib.shake_256(name.encode()).digest(8 * count)
    return np.frombuffer(digest, dtype="<u8").tolist()


def permute(index: np.ndarray, size: int, keys: Sequence[int] | np.ndarray) -> np.ndarray:
    """A pseudo-random bijection of 0 .. size-1, evaluated at `index` `[N]` without building it.

    `keys` are a number for each round, or `[rounds, N]`: then each element has a bijection of its
    own, which its column decides.

    A Feistel network over the next even number of bits; results that fall outside are sent through
    again until they land inside (cycle walking: Black and Rogaway 2002).
    """
    half = np.uint64(((size - 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << int(half)) - 1)
    rounds = np.array(keys, dtype=np.uint64)
    x = index.astype(np.uint64)
    outside = np.ones(x.shape, dtype=bool)
    while outside.any():
        walking = x[outside]
        left, right = walking >> half, walking & mask
        for key in rounds if rounds.ndim == 1 else rounds[:, outside]:
            left, right = right, left ^ (scramble(right + key) & mask)
        x[outside] = (left << half) | right
        outside = x >= size
    return x.astype(np.int64)


def scramble(x: np.ndarray) -> np.ndarray:
    """Scramble 64-bit integers (the finaliser of SplitMix64: Steele, Lea and Flood 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
