"""The model inside Lightning's loop: one loss, one optimizer, nothing model-specific."""

from __future__ import annotations

import logging
from typing import Any

import lightning
import torch
from torch import Tensor

from conf.schema import OptimConf
from models.contract import Model
from training.loop.nan_guard import NanGuard
from training.loop.objective import WHOLE, SequenceMode
from training.loop.optim import (
    build_optimizer,
    build_schedule,
    clip_gradients,
    configured,
    only_rises,
    set_configured,
)
from training.run_folder.ledger import Ledger

log = logging.getLogger("crossover")


class LanguageModel(lightning.LightningModule):
    """Trains any `models.contract.Model` on batches of `[B, T + 1]` tokens."""

    def __init__(
        self,
        model: Model,
        optim: OptimConf,
        max_steps: int,
        reading: SequenceMode = WHOLE,
        guard: NanGuard | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.guard = guard
        self.ledger = ledger or Ledger()
        self.optim = optim
        self.reading = reading
        self.max_steps = max_steps
        self.loss_sum: Tensor | float = 0.0
        """Sum of the micro-batch losses of the current optimizer step, still on the device."""
        self.grad_norm: Tensor | float = 0.0
        """Gradient norm before clipping of the last optimizer step."""
        self.rate = 0.0
        """Learning rate of the first group in the last optimizer step."""
        self.val_sum = torch.zeros(2)
        """Summed validation loss and its number of tokens."""

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        tokens, targets = batch[:, :-1], batch[:, 1:]
        objective, loss = self.reading.objective(self.model, tokens, targets, self.optim.l2wrap)
        self.loss_sum = self.loss_sum + loss.detach()
        if self.guard is not None:
            self.guard.record_loss(loss)
        return objective

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        # Read here: as soon as the step is made, the schedule puts the next one's in its place.
        self.rate = float(optimizer.param_groups[0]["lr"])

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        if self.trainer.strategy.handles_gradient_accumulation:
            return  # as DeepSpeed does, which clips too and then has its norm judged
        limit = gradient_clip_val if gradient_clip_val else float("inf")
        if not self.check_gradients(clip_gradients(self.parameters(), limit)):
            optimizer.zero_grad(set_to_none=True)  # without gradients it changes nothing

    def check_gradients(self, grad_norm: Tensor) -> bool:
        """Whether the step with a gradient of this norm, before clipping, may be taken."""
        self.grad_norm = grad_norm
        return self.guard is None or self.guard.allow_step(self.trainer, grad_norm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["skipped_steps"] = self.guard.skipped if self.guard else 0

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.guard is not None:
            self.guard.skipped = checkpoint.get("skipped_steps", 0)

    def on_validation_epoch_start(self) -> None:
        self.val_sum = torch.zeros(2, dtype=torch.float64)

    def validation_step(self, batch: tuple[Tensor, Tensor, bool], batch_idx: int) -> None:
        tokens, targets, counts = batch
        loss = self.reading.loss(self.model, tokens, targets)
        if counts:
            self.val_sum[0] += loss.item() * targets.numel()
            self.val_sum[1] += targets.numel()

    def validation_loss(self) -> float:
        """Mean over the last validation, all processes, nats per token."""
        total = self.trainer.strategy.reduce(self.val_sum.to(self.device), reduce_op="sum")
        return float(total[0] / total[1])

    def configure_optimizers(self) -> Any:
        optimizer = build_optimizer(self.model, self.optim)  # type: ignore[arg-type]
        schedule = build_schedule(optimizer, self.max_steps, self.optim)
        self._schedule, self._configured = schedule, configured(optimizer)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_train_start(self) -> None:
        """A checkpoint has brought the settings it was made with: those asked for now count.

        Its moments and the number of its steps stay.
        """
        before, now = set_configured(self._schedule, self._configured)
        step, ledger = self.trainer.global_step, self.ledger
        other_end = ledger.max_steps not in (None, self.max_steps)
        ledger.max_steps = self.max_steps
        if not step or step >= self.max_steps or (before == now and not other_end):
            return
        verb = "goes on at" if before == now else "rises" if now > before else "falls"
        rate = f"{now:.4g}" if before == now else f"from {before:.4g} to {now:.4g}"
        if only_rises(self.max_steps, self.optim):
            shape = f"it only rises until the last step, {self.max_steps}"
        else:
            shape = f"the cosine now ends at step {self.max_steps}"
        change = f"after step {step} the learning rate {verb} {rate}: {shape}"
        ledger.schedule_changes.append(change)
        if self.trainer.is_global_zero:
            log.warning("%s", change)
