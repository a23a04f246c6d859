"""Checks before every optimizer step that the loss and the gradient are finite."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor

from core.errors import UserError
from data.order import Order
from training.loop.loss_scaling import overflows

SHOWN = 16  # windows of a batch that a message names


class NanGuard(lightning.Callback):
    """Stops a run, or leaves a step out, where the loss or the gradient is NaN or infinite.

    `LanguageModel` calls `allow_step` where Lightning clips gradients, the one place where their
    norm is known and the step is not taken yet. `on_nan` is `stop` or `skip`. A check costs one
    wait for the device per optimizer step. With precision 16-mixed a step whose gradient overflows
    is left out and counted apart, whatever `on_nan` says: the next one has a lower loss scale.
    `last_good` finds the checkpoint that a message names.
    """

    def __init__(self, on_nan: str, order: Order, last_good: Callable[[], Path | None]) -> None:
        self._skip = on_nan == "skip"
        self._order = order
        self._last_good = last_good
        self.skipped = 0
        """Optimizer steps left out so far, over all processes and restarts."""
        self.overflowed = 0
        """Those left out because the scale of fp16 losses was too large."""

    @classmethod
    def among(cls, trainer: lightning.Trainer) -> list[NanGuard]:
        """The guards of a trainer: one in a run, none where nobody has asked for one."""
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        return [each for each in callbacks if isinstance(each, cls)]

    def allow_step(
        self, trainer: lightning.Trainer, losses: list[Tensor], grad_norm: Tensor
    ) -> bool:
        """Whether the step may be taken; the answer is the same in every process.

        `losses` are those of its micro-batches. Raises `UserError` if the step may not be taken
        and the run is to stop.
        """
        all_losses = torch.stack(losses)
        overflow = overflows(trainer.precision_plugin, grad_norm)
        trouble = ~all_losses.isfinite().all() | (~grad_norm.isfinite() & ~overflow)
        if trainer.world_size > 1:
            trouble = trainer.strategy.reduce(trouble.float(), reduce_op="sum")
        if not trouble:
            self.overflowed += bool(overflow)
            return not overflow
        if not self._skip:
            raise UserError(self._message(trainer, all_losses, grad_norm))
        self.skipped += 1
        return False

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["skipped_steps"] = self.skipped
        checkpoint["overflowed_steps"] = self.overflowed

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        self.skipped = checkpoint.get("skipped_steps", 0)
        self.overflowed = checkpoint.get("overflowed_steps", 0)

    def _message(self, trainer: lightning.Trainer, losses: Tensor, grad_norm: Tensor) -> str:
        step, accumulate = trainer.global_step, len(losses)
        finite = losses.isfinite().tolist()
        # Without a loss to blame, every micro-batch of the step is under suspicion.
        suspects = [i for i in range(accumulate) if not finite[i]] or range(accumulate)
        numbers = [step * accumulate + i for i in suspects]
        starts = [start for number in numbers for start in self._order.named(number)]
        shown = ", ".join(starts[:SHOWN]) + (", ..." if len(starts) > SHOWN else "")
        last = self._last_good()
        saved = f"the last good checkpoint is {last}" if last else "there is no checkpoint yet"
        return (
            f"step {step + 1}: loss {losses.mean().item():g}, gradient norm {grad_norm.item():g}. "
            f"Micro-batches {', '.join(map(str, numbers))}: windows of {self._order.length + 1} "
            f"training tokens from {shown} on. Nothing was changed by this step; {saved}. The "
            "same command with training.on_nan=skip leaves such steps out and counts them; a lower "
            "optim.lr makes them rarer"
        )
