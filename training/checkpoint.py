"""Checkpoints that are whole or absent, and the choice of the one to resume from."""

from __future__ import annotations

import logging
import random
import re
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from models.errors import UserError
from models.files import atomic, damage, manifest_path, write_manifest
from training.folder import RunFolder

log = logging.getLogger("crossover")

KEEP = 2
PATTERN = re.compile(r"step-(\d{8})\.ckpt")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint reader and writer, made crash-safe.

    Writing: temporary name, flush, rename, then a manifest with size and SHA-256. Reading: the
    manifest is verified and only tensors and plain values are unpickled.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        path = Path(path)
        with atomic(path) as file:
            torch.save(checkpoint, file)
        write_manifest(path)

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        path = Path(path)
        if problem := damage(path):
            raise UserError(f"checkpoint {path}: {problem}")
        return torch.load(path, map_location=map_location, weights_only=True)

    def remove_checkpoint(self, path: Any) -> None:
        # The manifest goes last: a checkpoint without one counts as damaged and is passed over.
        Path(path).unlink(missing_ok=True)
        manifest_path(Path(path)).unlink(missing_ok=True)


def saved(folder: RunFolder) -> list[Path]:
    """Checkpoints of a run, oldest first."""
    if not folder.checkpoints.is_dir():
        return []
    return sorted(path for path in folder.checkpoints.iterdir() if PATTERN.fullmatch(path.name))


def step_of(path: Path) -> int:
    """The optimizer step in a checkpoint's name."""
    match = PATTERN.fullmatch(path.name)
    if match is None:
        raise UserError(f"{path} is not named like a checkpoint (step-00000100.ckpt)")
    return int(match[1])


def newest(folder: RunFolder) -> Path | None:
    """The newest undamaged checkpoint; says so when it has to pass over a damaged one.

    Raises `UserError` if there are checkpoints but none can be trusted.
    """
    candidates = saved(folder)
    for path in reversed(candidates):
        problem = damage(path)
        if problem is None:
            return path
        log.warning("checkpoint %s is damaged (%s); trying the one before it", path, problem)
    if candidates:
        raise UserError(
            f"{folder.checkpoints}: every checkpoint is damaged; "
            "resume=never starts again and keeps the old folder aside"
        )
    return None


class Checkpointer(lightning.Callback):
    """Saves every `every` optimizer steps and at the end, and keeps the last two.

    The state of the random generators of every process travels with the checkpoint, as does
    `identity`: plain values that a resuming run must share.
    """

    def __init__(self, folder: RunFolder, every: int, identity: dict[str, Any]) -> None:
        self._folder = folder
        self._every = every
        self._identity = identity
        self._saved_step = -1
        self._restored: dict[str, Any] | None = None

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        if self._restored is not None:
            set_random_state(self._restored["random"], trainer.global_rank)

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        step = trainer.global_step
        if step % self._every == 0 and step != self._saved_step and step > 0:
            self._save(trainer)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        if trainer.global_step != self._saved_step and trainer.global_step > 0:
            self._save(trainer)

    def _save(self, trainer: lightning.Trainer) -> None:
        self._saved_step = trainer.global_step
        name = f"step-{trainer.global_step:08d}.ckpt"
        trainer.save_checkpoint(self._folder.checkpoints / name)
        if trainer.is_global_zero:
            for old in saved(self._folder)[:-KEEP]:
                trainer.strategy.checkpoint_io.remove_checkpoint(old)

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        states: list[Any] = [random_state()]
        if trainer.world_size > 1:
            states = [None] * trainer.world_size
            torch.distributed.all_gather_object(states, random_state())
        checkpoint["crossover"] = {"identity": self._identity, "random": states}

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        self._restored = checkpoint["crossover"]
        self._saved_step = checkpoint["global_step"]


def random_state() -> dict[str, Any]:
    """The state of every generator of this process, as tensors and plain values."""
    version, internal, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()
    state = {
        "python": [version, list(internal), gauss],
        "numpy": [kind, torch.from_numpy(np.array(keys)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(states: list[dict[str, Any]], rank: int) -> None:
    """Continue the generators of process `rank`; processes that did not exist keep their seed."""
    if rank >= len(states):
        return
    state = states[rank]
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy(), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
