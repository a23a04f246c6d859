"""The corpus as Lightning wants it: loaders that start where the run stands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from conf.schema import DataConf
from data.batches import train_loader, validation_windows
from data.mixture import Data, Heldout, own_heldout
from data.store import Corpus
from data.tasks.task_data import TaskData


class Tokens(lightning.LightningDataModule):
    """Training batches are a function of the step, so resuming is starting at another number.

    Processes get rows of every batch, or `whole` batches to read their own span of each row. Each
    of the texts that validate has a loader of its own.
    """

    def __init__(
        self,
        data: Data,
        conf: DataConf,
        seed: int,
        val_windows: int,
        whole: bool = False,
        texts: Sequence[Heldout] | None = None,
    ) -> None:
        """`texts` validate; if None, what is held out of `data`."""
        super().__init__()
        self._data, self._texts = data, own_heldout(data) if texts is None else texts
        self._conf = conf
        self._seed = seed
        self._val_windows = val_windows
        self._whole = whole

    def _share(self) -> tuple[int, int]:
        """Rank and number of the processes that share a batch."""
        assert self.trainer is not None
        return (0, 1) if self._whole else (self.trainer.global_rank, self.trainer.world_size)

    def train_dataloader(self) -> DataLoader:
        assert self.trainer is not None
        # Lightning restores global_step before it asks for the loader.
        start = self.trainer.global_step * self.trainer.accumulate_grad_batches
        rank, world = self._share()
        accumulate = self.trainer.accumulate_grad_batches
        return train_loader(self._data, self._conf, self._seed, start, rank, world, accumulate)

    def val_dataloader(self) -> list[DataLoader]:
        loaders = []
        for text in self._texts:
            windows = ValidationWindows(text.corpus, self._conf, self._val_windows, *self._share())
            # A generator of its own: else iterating would advance the global one.
            loaders.append(DataLoader(windows, batch_size=None, generator=torch.Generator()))
        return loaders


class ValidationWindows(IterableDataset):
    """Fixed windows spread over the validation tokens: inputs, targets, and whether they count.

    Every process gets its rows of every batch. One for which there is none reads a row that does
    not count: where weights are sharded, no process can read without the others.
    """

    def __init__(
        self, corpus: Corpus | TaskData, conf: DataConf, windows: int, rank: int, world: int
    ) -> None:
        self._corpus, self._conf, self._windows = corpus, conf, windows
        self._rank, self._world = rank, world

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, bool]]:
        batches = validation_windows(
            self._corpus, self._conf.length, self._windows, self._conf.batch_size
        )
        for tokens, targets in batches:
            counts = self._rank < len(tokens)
            rows = slice(self._rank, None, self._world) if counts else slice(1)
            yield tokens[rows], targets[rows], counts
