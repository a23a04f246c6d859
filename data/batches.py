"""Steps to batches: a batch is a pure function of (corpus fingerprint, seed, step).

Nothing is remembered between batches, so any step can be asked for at once, by any process, with
any number of loader workers; resuming a run is starting the loader at another step.

An epoch lays a grid of windows over the training tokens at a random offset and visits each window
once, in pseudo-random order. Row r of the endless list of windows is window `r % windows` of epoch
`r // windows`; step s takes rows `s * batch_size` onwards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from conf.schema import DataConf
from core.errors import UserError
from data.growth import Growth
from data.meta import MASK_DTYPE
from data.store import Corpus

IGNORE = -100
"""A target that is not learned, as in `torch.nn.functional.cross_entropy`."""

_ROUNDS = 6  # of the Feistel network; 4 already look random (Luby and Rackoff 1988)


@dataclass(frozen=True)
class BatchIndex:
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

    def __post_init__(self) -> None:
        if self.tokens < self.length + 1:
            raise UserError(f"{self.tokens} tokens are too few for data.length={self.length}")

    @property
    def windows(self) -> int:
        """Windows of an epoch. Neighbours share one token, the last target of the earlier one.

        One window fewer than would fit, so that the grid can start anywhere in the first T tokens.
        """
        return max(1, (self.tokens - self.length) // self.length)

    def starts(self, step: int) -> np.ndarray:
        """First token of each window of the batch at `step`: int64 `[B]`."""
        first = step * self.batch_size
        return self._starts(np.arange(first, first + self.batch_size))

    def order_hash(self, steps: int) -> str:
        """16 hex digits over the first `steps` batches: equal for equal tokens in equal order."""
        total = hashlib.sha256(f"{self.fingerprint} {self.length} {self.batch_size}".encode())
        if self.growth is not None:
            total.update(repr(self.growth).encode())
        rows = steps * self.batch_size
        for first in range(0, rows, 1 << 16):
            part = self._starts(np.arange(first, min(rows, first + (1 << 16))))
            total.update(part.astype("<i8").tobytes())
        return total.hexdigest()[:16]

    def _starts(self, rows: np.ndarray) -> np.ndarray:
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
        name = f"{self.fingerprint} {self.seed} {epoch}".encode()
        digest = hashlib.shake_256(name).digest(8 * (1 + _ROUNDS))
        return np.frombuffer(digest, dtype="<u8").tolist()


def permute(index: np.ndarray, size: int, keys: list[int]) -> np.ndarray:
    """A pseudo-random bijection of 0 .. size-1, evaluated at `index` without building it.

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
        for key in rounds:
            left, right = right, left ^ (_mix(right + key) & mask)
        x[outside] = (left << half) | right
        outside = x >= size
    return x.astype(np.int64)


def _mix(x: np.ndarray) -> np.ndarray:
    """Scramble 64-bit integers (the finaliser of SplitMix64: Steele, Lea and Flood 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class Masked(NamedTuple):
    """A batch of a corpus of which some tokens are read and not learned."""

    tokens: Tensor
    """Inputs, int64 `[B, T]`."""
    targets: Tensor
    """int64 `[B, T]`, `IGNORE` where nothing is learned."""
    learned: int
    """Targets that are learned in the whole optimizer step: all rows of all its micro-batches."""


class Batches(Dataset[Any]):
    """`batches[step]` is this process's part of the batch at `step`: int64 `[B / world, T + 1]`.

    Inputs are `[:, :-1]`, targets `[:, 1:]`; a corpus with masks gives a `Masked` instead. Raises
    `UserError` if the batch cannot be shared out evenly.
    """

    def __init__(
        self,
        corpus: Corpus,
        conf: DataConf,
        seed: int,
        rank: int = 0,
        world: int = 1,
        accumulate: int = 1,
    ) -> None:
        if conf.batch_size < 1 or conf.batch_size % world:
            raise UserError(
                f"data.batch_size={conf.batch_size} cannot be shared by {world} processes evenly: "
                f"choose a positive multiple of {world}"
            )
        meta, growth = corpus.meta, Growth.of(conf, accumulate)
        if growth is not None:
            growth.check_shared(world)
        self.index = BatchIndex(
            meta.train_tokens, conf.length, conf.batch_size, corpus.fingerprint, seed, growth
        )
        self._rank, self._world = rank, world
        rows = conf.batch_size // world
        self._share = slice(rank * rows, (rank + 1) * rows)
        self._watch, self._folder = corpus.watch, corpus.folder
        self._blocks = {name: each for name, each in corpus.blocks.items() if "train" in name}
        self._dtypes = {"train.bin": meta.dtype, "train.mask": MASK_DTYPE}
        self._masked, self._accumulate = corpus.masked, accumulate
        self._files: dict[str, np.memmap] = {}
        self._counted: tuple[int, int] | None = None
        """An optimizer step, and the targets that it learns."""

    def __getitem__(self, step: int) -> Any:
        share, length = self._share, self.index.length
        if self.index.growth is not None:
            rows, length = self.index.growth.shape_of(step)
            share = slice(self._rank * rows // self._world, (self._rank + 1) * rows // self._world)
        starts = self.index.starts(step)[share]
        self._watch.check()  # before reading, or a file cut short would end the process
        tokens = torch.from_numpy(self._read("train.bin", starts, length + 1).astype(np.int64))
        batch: Tensor | Masked = tokens
        if self._masked:
            mask = torch.from_numpy(self._read("train.mask", starts + 1, length))
            targets = tokens[:, 1:].masked_fill(mask == 0, IGNORE)
            batch = Masked(tokens[:, :-1], targets, self._learned(step // self._accumulate))
        self._watch.check()  # and after it, so that what was read is what was prepared
        return batch

    def _read(self, name: str, starts: np.ndarray, width: int) -> np.ndarray:
        """`[B, width]` entries of a file from each of `starts` on, proven."""
        if name not in self._files:  # each worker opens the files itself
            self._files[name] = np.memmap(self._folder / name, self._dtypes[name], mode="r")
        file = self._files[name]
        places = (starts * file.itemsize).tolist()
        self._blocks[name].prove(file.view(np.uint8), places, width * file.itemsize)
        return file[starts[:, None] + np.arange(width)]

    def _learned(self, step: int) -> int:
        """Targets that an optimizer step learns, over all processes.

        Each process counts them all in the masks, so none has to ask the others.
        """
        if self._counted is None or self._counted[0] != step:
            total, length = 0, self.index.length
            for number in range(step * self._accumulate, (step + 1) * self._accumulate):
                starts = self.index.starts(number)
                if self.index.growth is not None:
                    rows, length = self.index.growth.shape_of(number)
                    starts = starts[:rows]
                total += int(self._read("train.mask", starts + 1, length).sum())
            self._counted = step, total
        return self._counted[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}


def train_loader(
    corpus: Corpus,
    conf: DataConf,
    seed: int,
    start_step: int,
    rank: int = 0,
    world: int = 1,
    accumulate: int = 1,
) -> DataLoader:
    """The batches of steps `start_step`, `start_step + 1`, ..., without end: `[B / world, T + 1]`.

    A step here is one forward and backward pass: with gradient accumulation, `accumulate` of them
    make an optimizer step. The sampler already knows the rank, so Lightning must not replace it
    (`use_distributed_sampler=False`).
    """
    return DataLoader(
        Batches(corpus, conf, seed, rank, world, accumulate),
        sampler=count(start_step),
        batch_size=None,
        num_workers=conf.workers,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # else iterating would advance the global one
    )


def validation_windows(
    corpus: Corpus, length: int, count: int, batch: int = 1
) -> Iterator[tuple[Tensor, Tensor]]:
    """At most `count` windows spread evenly over the validation tokens: pairs `[batch, T]`.

    A pair is inputs and targets, `IGNORE` where nothing is learned; only windows in which something
    is learned are taken. Windows do not overlap (but for the token where one ends and the next
    begins), so there may be fewer than `count`; the last batch may be smaller. Raises `UserError`
    if the file is no longer what was prepared.
    """
    targets = len(corpus.val) - 1
    if corpus.masked:
        starts = _windows_to_learn(corpus, length)
        count = min(count, len(starts))
        starts = [starts[i * len(starts) // count] for i in range(count)]
    else:
        count = min(count, targets // length)
        starts = [i * targets // count for i in range(count)]
    for first in range(0, count, batch):
        yield _inputs_and_targets(corpus, starts[first : first + batch], length)


def all_validation(corpus: Corpus, length: int, batch: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
    """Every validation token but the first as a target exactly once: pairs `[batch, T]`.

    The last batch of full windows may be smaller, and what does not fill a window comes at the end
    as one shorter row: weigh losses by the number of targets, of which those that are not learned
    are `IGNORE`. Raises `UserError` if the file is no
    longer what was prepared.
    """
    targets = len(corpus.val) - 1
    full = targets // length * length
    for first in range(0, full, batch * length):
        starts = list(range(first, min(full, first + batch * length), length))
        yield _inputs_and_targets(corpus, starts, length)
    if full < targets:
        yield _inputs_and_targets(corpus, [full], targets - full)


def _windows_to_learn(corpus: Corpus, length: int) -> list[int]:
    """First token of each window of the validation tokens that has a learned target.

    Where only the rest that fills no window has some, it is the last window that fits.
    """
    targets = len(corpus.val) - 1
    full = targets // length
    corpus.watch.check()
    learned = corpus.val_mask[1 : 1 + full * length].reshape(full, length).any(axis=1)
    corpus.watch.check()
    return (np.flatnonzero(learned) * length).tolist() or [targets - length]


def _inputs_and_targets(corpus: Corpus, starts: list[int], length: int) -> tuple[Tensor, Tensor]:
    corpus.watch.check()  # before and after reading, as for training
    rows = torch.from_numpy(
        np.stack([corpus.val[start : start + length + 1].astype(np.int64) for start in starts])
    )
    inputs, targets = rows[:, :-1], rows[:, 1:]
    if corpus.masked:
        masks = [corpus.val_mask[start + 1 : start + length + 1] for start in starts]
        targets = targets.masked_fill(torch.from_numpy(np.stack(masks) == 0), IGNORE)
    corpus.watch.check()
    return inputs, targets
