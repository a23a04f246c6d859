"""Lightning's reader and writer of checkpoints, made crash-safe and moved out of the loop's way."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from core.errors import UserError
from core.files import atomic
from training.checkpoints.find import snapshot


class BackgroundIO(TorchCheckpointIO):
    """Copies a checkpoint to CPU memory and writes it in a thread, one at a time.

    A file appears whole or not at all: temporary name, flush, manifest, rename. `after` is called
    with a checkpoint's content, in that thread, once it is safe. What is read is `start`, the
    content of the checkpoint that a run continues from, which has been read and checked before.
    """

    def __init__(
        self, start: dict[str, Any] | None, after: Callable[[dict[str, Any]], None]
    ) -> None:
        super().__init__()
        self._start = start
        self._after = after
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        self.wait()
        self._writing = self._thread.submit(self._write, snapshot(checkpoint), Path(path))

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        assert self._start is not None, "only the checkpoint given to BackgroundIO can be read"
        start, self._start = self._start, None  # to free the memory once it is restored
        return start

    def check(self) -> None:
        """Raise what a finished write raised; a write still under way is left alone."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Until the last checkpoint is safe. Raises `UserError` if it cannot be written."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def teardown(self) -> None:
        """Finish what is being written; called by Lightning however training ended."""
        self._thread.shutdown(wait=True)

    def _write(self, checkpoint: dict[str, Any], path: Path) -> None:
        try:
            with atomic(path, manifest=True) as file:
                torch.save(checkpoint, file)
            self._after(checkpoint)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as the latter
            is_full = "inline_container" in str(error)
            reason = "the disk is full, or files may not grow so large" if is_full else error
            raise cannot_be_written(path, reason) from error


def cannot_be_written(path: Path, reason: object) -> UserError:
    """What a run ends with whose checkpoint cannot be saved."""
    return UserError(
        f"checkpoint {path} cannot be written: {reason}. Those before it are whole; make "
        "room, and the same command continues from the newest"
    )
