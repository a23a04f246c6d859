"""The model inside Lightning's loop: one loss, one optimizer, nothing model-specific."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import lightning
import torch
from torch import Tensor

from conf.schema import OptimConf
from core.units import listing
from data.batches import Masked
from data.mixture import Right, mean_loss
from models.contract import Model
from models.long_context import sequence_parallel
from models.ops.backends import build_for
from models.tuning import frozen_names
from training.loop.nan_guard import NanGuard
from training.loop.objective import WHOLE, SequenceMode
from training.loop.optim import build_optimizer, clip_gradients, configured, set_configured
from training.loop.schedules import build_schedule, describe_end
from training.run_folder.ledger import Ledger

log = logging.getLogger("crossover")


class LanguageModel(lightning.LightningModule):
    """Trains any `models.contract.Model` on batches of `[B, T + 1]` tokens, or on `Masked` ones."""

    def __init__(
        self,
        model: Model,
        optim: OptimConf,
        max_steps: int,
        sequence_mode: SequenceMode = WHOLE,
        ledger: Ledger | None = None,
        shares: Sequence[float] = (1.0,),
        tuned: dict[str, Any] | None = None,
        accuracy: bool = False,
        judge: Callable[[], list[Right]] | None = None,
    ) -> None:
        """`shares` are the weights of the texts that validate in the validation loss; `tuned` is
        what checkpoints say of weights that stay as they are (`training.checkpoints.frozen`);
        `accuracy` counts the right answers to a task, of which all that validates are sequences;
        `judge` says instead how much is right of what the model makes, for each of these."""
        super().__init__()
        self.model = model
        self.ledger = ledger or Ledger()
        self.tuned = tuned
        self.optim = optim
        self.sequence_mode = sequence_mode
        self.max_steps = max_steps
        self.losses: list[Tensor] = []
        """Losses of the micro-batches of the current optimizer step, still on the device. Their
        mean over all processes is that of the step."""
        self.learned: int | None = None
        """Targets that the current optimizer step learns, over all processes; None: all of them."""
        self.grad_norm: Tensor | float = 0.0
        """Gradient norm before clipping of the last optimizer step."""
        self.rate = 0.0
        """Learning rate of the first group in the last optimizer step."""
        self.val_loss = math.nan
        """Mean of the last validation over all ranks, nats per token."""
        self.val_ema_loss: float | None = None
        """That of the averaged weights, where there are any (`training.loop.ema`)."""
        self.val_losses: list[float] = []
        """That of each text that validates, of which `val_loss` is the mean in `shares`."""
        self.shares = shares
        self.accuracy, self.judge = accuracy, judge
        self.val_right: list[Right] = []
        """What was right in the last validation, for each text, where that is counted."""
        self._answers = torch.zeros(len(shares), 3)
        """Missed targets, sequences without one, and sequences, of each text."""
        self._val_sum = torch.zeros(len(shares), 2)
        """Summed validation loss and its number of targets, of each text."""

    def training_step(self, batch: Tensor | Masked, batch_idx: int) -> Tensor:
        if anneal := getattr(self.model, "anneal", None):
            anneal(self.trainer.global_step / self.max_steps)
        mode, optim = self.sequence_mode, self.optim
        accumulate, total = self.trainer.accumulate_grad_batches, None
        if isinstance(batch, Tensor):
            tokens, targets = batch[:, :-1], batch[:, 1:]
        else:
            # The mean over the micro-batches and processes of a step, which comes after this, is
            # then that over all targets that the step learns, however they are spread.
            tokens, targets, learned = batch
            self.learned, total = learned, max(learned, 1) / accumulate / self.trainer.world_size
        objective, loss = mode.objective(
            self.model, tokens, targets, optim.l2wrap, optim.z_loss, total
        )
        if batch_idx % accumulate == 0:
            self.losses = []
        self.losses.append(loss.detach())
        return objective

    def on_fit_start(self) -> None:
        """Compile kernels that are not there yet: that is no time of a training step."""
        operator = getattr(self.model, "operator", None)
        if operator and getattr(self.model.config, "wkv", "auto") == "reference":
            operator = None
        build_for(self.device.type, filter(None, ("pointwise", operator)))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out what stays as it is, which lies in the run's folder once."""
        if self.tuned is not None:
            for name in frozen_names(self.model):  # type: ignore[arg-type]
                del checkpoint["state_dict"][f"model.{name}"]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what was left out: the model has it already."""
        if self.tuned is not None:
            checkpoint["state_dict"] = {**self.state_dict(), **checkpoint["state_dict"]}

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
            return  # DeepSpeed clips by itself, and `Zero` checks its norm after the step
        limit = gradient_clip_val if gradient_clip_val else float("inf")
        if not self.check_gradients(clip_gradients(self.parameters(), limit)):
            optimizer.zero_grad(set_to_none=True)  # without gradients it changes nothing

    def check_gradients(self, grad_norm: Tensor) -> bool:
        """Whether the step with a gradient of this norm, before clipping, may be taken."""
        self.grad_norm = grad_norm
        guards = NanGuard.among(self.trainer)
        return all(guard.allow_step(self.trainer, self.losses, grad_norm) for guard in guards)

    def on_validation_epoch_start(self) -> None:
        self._val_sum = torch.zeros(len(self.shares), 2, dtype=torch.float64)
        self._answers = torch.zeros(len(self.shares), 3, dtype=torch.float64)

    def validation_step(
        self, batch: tuple[Tensor, Tensor, bool], batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        tokens, targets, counts = batch
        sums = self.sequence_mode.summed(self.model, tokens, targets)
        if self.accuracy:
            missed = self.sequence_mode.missed(self.model, tokens, targets)
            figures = [int(missed.sum()), int((missed == 0).sum()), len(missed)]
            # Where processes share a sequence, each has counted all of it.
            shared = 1 if sequence_parallel.current() is None else self.trainer.world_size
            if counts:
                self._answers[dataloader_idx] += torch.tensor(figures) / shared
        if counts:
            self._val_sum[dataloader_idx] += torch.tensor(sums, dtype=torch.float64)

    def on_validation_epoch_end(self) -> None:
        total = self.trainer.strategy.reduce(self._val_sum.to(self.device), reduce_op="sum")
        self.val_losses = (total[:, 0] / total[:, 1]).tolist()
        self.val_loss = mean_loss(self.val_losses, self.shares)
        if self.accuracy:
            sums = self.trainer.strategy.reduce(self._answers.to(self.device), reduce_op="sum")
            self.val_right = [
                Right(1 - missed / count, exact / rows, loss / rows / math.log(2))
                for (missed, exact, rows), (loss, count) in zip(
                    sums.tolist(), total.tolist(), strict=True
                )
            ]
        if self.judge is not None:
            self.val_right = self.judge()
        # For callbacks that monitor it. The loggers' rows, in full precision, are the `Monitor`'s.
        self.log("val/loss", self.val_loss, logger=False, batch_size=1)

    def configure_optimizers(self) -> Any:
        optimizer = build_optimizer(self.model, self.optim)  # type: ignore[arg-type]
        schedule = build_schedule(optimizer, self.max_steps, self.optim)
        self._schedule, self._configured = schedule, configured(optimizer)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def _causes(self, step: int, other_end: bool) -> str:
        """Why the rate is another one after `step`, as the end of a sentence."""
        last = self.ledger.changes[-1] if self.ledger.changes else {"step": None, "changed": {}}
        changed = last["changed"] if last["step"] == step else {}
        words = [f"{key}={new}" for key, (_, new) in changed.items() if key.startswith("optim.")]
        if other_end or not words:
            words.append(describe_end(self.max_steps, self.optim))
        return listing(words)

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
        change = (
            f"after step {step} the learning rate {verb} {rate}: {self._causes(step, other_end)}"
        )
        ledger.schedule_changes.append(change)
        if self.trainer.is_global_zero:
            log.warning("%s", change)
