"""Steps to batches: a batch is a pure function of (corpus fingerprint, seed, step).

Nothing is remembered between batches, so any step can be asked for at once, by any process, with
any number of loader workers; resuming a run is starting the loader at another step. Which tokens
belong to a step, `data.order` and `data.mixed_order` say.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from conf.schema import DataConf
from core.errors import UserError
from data.meta import IGNORE
from data.mixture import Data, Mixture, order_of
from data.order import shape_of
from data.store import Corpus
from data.tasks.task_data import TaskData, TaskRows, heldout_rows, training_rows
from data.token_rows import TokenRows

_LOOKED_AT = 1 << 22  # tokens of a mask that are looked at once


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

    Inputs are `[:, :-1]`, targets `[:, 1:]`; a corpus with masks, or a task, gives a `Masked`
    instead. Raises
    `UserError` if the batch cannot be shared out evenly.
    """

    def __init__(
        self,
        data: Data,
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
        self.order = order_of(data, conf, seed, accumulate)
        if self.order.growth is not None:
            self.order.growth.check_shared(world)
        self._rank, self._world = rank, world
        self._parts: list[TokenRows] = []
        self._task: TaskRows | None = None
        if isinstance(data, TaskData):
            self._task = training_rows(data, seed)
        else:
            corpora = [part.corpus for part in data.parts] if isinstance(data, Mixture) else [data]
            self._parts = [TokenRows(corpus) for corpus in corpora]
        self._masked, self._accumulate = data.masked, accumulate
        self._counted: tuple[int, int] | None = None
        """An optimizer step, and the targets that it learns."""

    def __getitem__(self, step: int) -> Any:
        rows, length = shape_of(self.order, step)
        share = slice(self._rank * rows // self._world, (self._rank + 1) * rows // self._world)
        numbers, starts = (each[share] for each in self.order.places(step))
        if self._task is not None:
            inputs, targets = map(torch.from_numpy, self._task.rows(starts))
            alone = self._world == self._accumulate == 1
            learned = int((targets >= 0).sum()) if alone else self._learned(step)
            return Masked(inputs, targets, learned)
        tokens = torch.from_numpy(self._read("tokens", numbers, starts, length + 1))
        if not self._masked:
            return tokens
        mask = torch.from_numpy(self._read("mask", numbers, starts + 1, length))
        targets = tokens[:, 1:].masked_fill(mask == 0, IGNORE)
        return Masked(tokens[:, :-1], targets, self._learned(step))

    def _read(self, what: str, numbers: np.ndarray, starts: np.ndarray, width: int) -> np.ndarray:
        """`[B, width]` tokens, or what the mask says of them, of the parts `numbers`."""
        if len(self._parts) == 1:
            return getattr(self._parts[0], what)(starts, width)
        rows = np.empty((len(starts), width), dtype=np.int64)
        for number in np.unique(numbers).tolist():
            here = numbers == number
            rows[here] = getattr(self._parts[number], what)(starts[here], width)
        return rows

    def _learned(self, number: int) -> int:
        """Targets that the optimizer step of a micro-batch learns, over all processes.

        Each process counts them all, so none has to ask the others.
        """
        step = number // self._accumulate
        if self._counted is None or self._counted[0] != step:
            total = 0
            for number in range(step * self._accumulate, (step + 1) * self._accumulate):
                rows, length = shape_of(self.order, number)
                parts, starts = (each[:rows] for each in self.order.places(number))
                if self._task is not None:
                    total += int((self._task.rows(starts)[1] >= 0).sum())
                else:
                    total += int(self._read("mask", parts, starts + 1, length).sum())
            self._counted = step, total
        return self._counted[1]


def train_loader(
    data: Data,
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
        Batches(data, conf, seed, rank, world, accumulate),
        sampler=count(start_step),
        batch_size=None,
        num_workers=conf.workers,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # else iterating would advance the global one
    )


def validation_windows(
    corpus: Corpus | TaskData, length: int, count: int, batch: int = 1
) -> Iterator[tuple[Tensor, Tensor]]:
    """At most `count` windows spread evenly over the validation tokens: pairs `[batch, T]`.

    A pair is inputs and targets, `IGNORE` where nothing is learned; only windows in which something
    is learned are taken. Windows do not overlap (but for the token where one ends and the next
    begins), so there may be fewer than `count`; the last batch may be smaller. Raises `UserError`
    if the file is no longer what was prepared. Of a task, they are its first held-out sequences.
    """
    if isinstance(corpus, TaskData):
        yield from _sequences(corpus, min(count, corpus.heldout), batch)
        return
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


def all_validation(
    corpus: Corpus | TaskData, length: int, batch: int = 1
) -> Iterator[tuple[Tensor, Tensor]]:
    """Every validation token but the first as a target exactly once: pairs `[batch, T]`.

    The last batch of full windows may be smaller, and what does not fill a window comes at the end
    as one shorter row: weigh losses by the number of targets, of which those that are not learned
    are `IGNORE`. Raises `UserError` if the file is no longer what was prepared. Of a task, all of
    its held-out sequences.
    """
    if isinstance(corpus, TaskData):
        yield from _sequences(corpus, corpus.heldout, batch)
        return
    targets = len(corpus.val) - 1
    full = targets // length * length
    for first in range(0, full, batch * length):
        starts = list(range(first, min(full, first + batch * length), length))
        yield _inputs_and_targets(corpus, starts, length)
    if full < targets:
        yield _inputs_and_targets(corpus, [full], targets - full)


def _sequences(data: TaskData, count: int, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The first `count` held-out sequences of a task: pairs `[batch, T]`."""
    for first in range(0, count, batch):
        rows = heldout_rows(data, first, min(count, first + batch))
        inputs, targets = map(torch.from_numpy, rows)
        yield inputs, targets


def _windows_to_learn(corpus: Corpus, length: int) -> list[int]:
    """First token of each window of the validation tokens that has a learned target.

    Where only the rest that fills no window has some, it is the last window that fits.
    """
    targets = len(corpus.val) - 1
    full = targets // length
    found: list[int] = []
    for first in range(0, full, at_once := max(1, _LOOKED_AT // length)):
        here = min(full, first + at_once)
        mask = corpus.val_mask[1 + first * length : 1 + here * length]
        learned = mask.reshape(here - first, length).any(axis=1)
        found += ((first + np.flatnonzero(learned)) * length).tolist()
    return found or [targets - length]


def _inputs_and_targets(corpus: Corpus, starts: list[int], length: int) -> tuple[Tensor, Tensor]:
    rows = torch.from_numpy(corpus.val.rows(starts, length + 1).astype(np.int64))
    inputs, targets = rows[:, :-1], rows[:, 1:]
    if corpus.masked:
        masks = corpus.val_mask.rows([start + 1 for start in starts], length)
        targets = targets.masked_fill(torch.from_numpy(masks == 0), IGNORE)
    return inputs, targets
