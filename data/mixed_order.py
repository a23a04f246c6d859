"""Which tokens of several parts belong to which step, each part having its exact share of the rows.

The rows of all batches lie in blocks of so many rows that every part's share of one is a whole
number, its quota. Inside a block they are in pseudo-random order. The rows of one part, counted
over all blocks, are the rows of its own `WindowOrder`: it visits each of its windows once per epoch
of its own. Row r of the mixture, its part and its number within the part follow from one another
without a sum over what comes before, so any step can be asked for at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import lcm

import numpy as np

from core.errors import UserError
from data.growth import Growth
from data.order import (
    ROUNDS,
    SPLITMIX_STEP,
    WindowOrder,
    hash_of_rows,
    permute,
    random_numbers,
    rows_of,
    scramble,
    shape_of,
)

MOST_ROWS = 4096
"""Rows of a block; shares that are no multiples of one part in so many are rounded to them."""


def quotas(weights: Mapping[str, float]) -> dict[str, int]:
    """How many of the rows of each block belong to each part.

    Weights are decimal numbers, of which only the ratios count. The block is the smallest in which
    all shares are whole; where that has more than `MOST_ROWS`, one of `MOST_ROWS` with the nearest
    shares (largest remainders). Raises `UserError` for a weight that is not positive, or too small
    to have a row of a block.
    """
    for name, weight in weights.items():
        if not weight > 0 or weight == float("inf"):
            raise UserError(f"data.mix.{name}={weight}: must be above 0")
    exact = {name: Fraction(repr(weight)) for name, weight in weights.items()}
    total = sum(exact.values())
    shares = {name: weight / total for name, weight in exact.items()}
    block = lcm(*(share.denominator for share in shares.values()))
    if block <= MOST_ROWS:
        return {name: int(share * block) for name, share in shares.items()}
    rows = {name: int(share * MOST_ROWS) for name, share in shares.items()}
    rest = sorted(shares, key=lambda name: (rows[name] - shares[name] * MOST_ROWS, name))
    for name in rest[: MOST_ROWS - sum(rows.values())]:
        rows[name] += 1
    for name, quota in rows.items():
        if not quota:
            raise UserError(
                f"data.mix.{name}={weights[name]}: less than 1 in {MOST_ROWS:,} of the mixture "
                "cannot be read; raise it or leave the part out"
            )
    return rows


@dataclass(frozen=True)
class MixedOrder:
    """Where each batch of a mixture starts, in which part. Holds no tokens."""

    names: tuple[str, ...]
    """What the parts are called."""
    parts: tuple[WindowOrder, ...]
    """The order of each part's own rows; their `batch_size` means nothing here."""
    quotas: tuple[int, ...]
    """Rows of each part in a block."""
    batch_size: int
    """Rows of a batch over all processes."""
    fingerprint: str
    """Fingerprint of the mixture."""
    seed: int
    growth: Growth | None = None

    @property
    def length(self) -> int:
        """Context length T."""
        return self.parts[0].length

    @property
    def block(self) -> int:
        """Rows of a block."""
        return sum(self.quotas)

    def row_places(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The part and the first token of each of `rows`: int64 `[N]` each."""
        blocks, places = np.divmod(rows, self.block)
        ends = np.cumsum(self.quotas)
        places = permute(places, self.block, self._keys(blocks))
        parts = np.searchsorted(ends, places, side="right").astype(np.int64)
        within = places - (ends - self.quotas)[parts] + blocks * np.array(self.quotas)[parts]
        starts = np.empty_like(rows)
        for number in np.unique(parts).tolist():
            here = parts == number
            starts[here] = self.parts[number].row_starts(within[here])
        return parts, starts

    def places(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The part and the first token of each window of the batch at `step`: int64 `[B]` each."""
        return self.row_places(rows_of(step, self.batch_size))

    def named(self, step: int) -> list[str]:
        """The windows of a batch as a message names them: part and first token."""
        both = zip(*(each.tolist() for each in self.places(step)), strict=True)
        return [f"{self.names[part]} {start}" for part, start in both]

    def order_hash(self, steps: int) -> str:
        """16 hex digits over the first `steps` batches: equal for equal tokens in equal order."""
        return hash_of_rows(self, steps, self.row_places)

    def tokens_of(self, step: int) -> dict[str, int]:
        """Tokens that the batch at `step` reads of each part."""
        rows, length = shape_of(self, step)
        counts = np.bincount(self.places(step)[0][:rows], minlength=len(self.names))
        return {name: int(count) * length for name, count in zip(self.names, counts, strict=True)}

    def epochs(self, rows: int) -> dict[str, float]:
        """How often the first `rows` rows of the mixture read each part, in expectation."""
        own = zip(self.names, self.parts, self.quotas, strict=True)
        return {name: rows * quota / self.block / part.windows for name, part, quota in own}

    def _keys(self, blocks: np.ndarray) -> np.ndarray:
        """The random numbers of the blocks, one for each round: uint64 `[rounds, N]`."""
        name = f"{self.fingerprint} {self.seed} mixture"
        base = np.array(random_numbers(name, ROUNDS), dtype=np.uint64)
        # Without the step block 0 would stay 0.
        return scramble(base[:, None] + scramble(blocks.astype(np.uint64) + SPLITMIX_STEP))


def fingerprint_of(parts: Sequence[tuple[str, int]]) -> str:
    """16 hex digits for a mixture of parts, each its fingerprint and quota, in any order."""
    key = f"mixture {sorted(parts)}"
    return hashlib.sha256(key.encode()).hexdigest()[:16]
