"""The writer of sharded checkpoints, to which every process adds its own part."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed import checkpoint as dcp
from torch.distributed.tensor import DTensor

from core.files import described, remove, seal, sync
from models.formats.run_checkpoints import aside_of
from models.formats.sharded import REST, behind, changed
from training.checkpoints.async_io import BackgroundIO, cannot_be_written
from training.checkpoints.find import snapshot
from training.distributed.local_processes import RankInfo


class ShardedIO(BackgroundIO):
    """Writes `models.formats.sharded`; all processes call it together, and training waits.

    The folder is made under another name, each process flushes its own file and hashes it; then
    process 0 writes the rest and the manifest, and renames. Nothing is gathered but digests.
    """

    def __init__(self, member: RankInfo, *args: Any) -> None:
        super().__init__(*args)
        self._member = member

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        path = Path(path)
        try:
            self._save(checkpoint, path)
        except (OSError, dcp.CheckpointException) as error:  # a process that is gone is neither
            if self._member.rank == 0:
                with suppress(OSError):
                    remove(aside_of(path))
            raise cannot_be_written(path, behind(error)) from error

    def _save(self, checkpoint: dict[str, Any], path: Path) -> None:
        leads, aside = self._member.rank == 0, aside_of(path)
        shards: dict[str, Tensor] = {}

        def part(name: str, value: Any) -> Any:
            if not isinstance(value, DTensor):
                return value
            if value.to_local().numel():  # few rows may leave none for this process
                shards[name] = value.detach()
            return None

        rest = changed(checkpoint, part)
        if leads:
            remove(aside)
            aside.mkdir(parents=True)
        self._member.all_reduce_max(0)  # the folder is there
        writer = dcp.HuggingFaceStorageWriter(str(aside), save_distributed=True)
        dcp.save(shards, storage_writer=writer)
        mine = f"shard-{self._member.rank + 1:05d}-*.safetensors"
        files = self._member.gather({file.name: described(file) for file in aside.glob(mine)})
        if leads:
            with (aside / REST).open("wb") as file:
                try:
                    torch.save(snapshot(rest), file)
                except RuntimeError as error:  # so torch reports a full disk
                    raise OSError(str(error)) from error
            sync(aside / REST)
            listed = {name: one for each in files for name, one in each.items()}
            seal(path, aside, {**listed, REST: described(aside / REST)})
            self._after(checkpoint)
        self._member.all_reduce_max(0)  # it stands in its place
