"""An exponential moving average of the weights, beside those that are trained: `optim.ema`."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import lightning
import torch
from torch import Tensor, nn

from conf.schema import OptimConf
from data.mixture import mean_loss
from models.tuning import frozen_names

KEY = "ema"
"""Key of a checkpoint: the averages under the names of `state_dict`."""


def kept_share(decay: float, step: int) -> float:
    """How much of the average stays at an optimizer step, counted from 1.

    `decay`, and less at the beginning, where the average would remember initial values only.
    """
    return min(decay, (1 + step) / (10 + step))


class WeightAverage(lightning.Callback):
    """Averages every weight after each optimizer step, and validates with the averages too.

    `model` is a second model with the averages as its weights, in fp32. They travel with every
    checkpoint. Where a training continues from one that holds none, they begin with its weights.
    """

    def __init__(self, decay: float, model: nn.Module) -> None:
        self._decay = decay
        self.model: Any = copy.deepcopy(model).requires_grad_(False)
        self._step = 0
        self._sum = torch.zeros(1, 2)
        """Summed validation loss and its number of targets, of each text that validates."""

    @classmethod
    def of(cls, conf: OptimConf, model: nn.Module) -> WeightAverage | None:
        """None where no average is asked for; `model` has the weights that it begins with."""
        return cls(conf.ema, model) if conf.ema else None

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self.model.to(pl_module.device)
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *args: Any) -> None:
        step = trainer.global_step
        if step == self._step:  # a micro-batch of an unfinished optimizer step
            return
        self._step = step
        pairs = zip(self.model.parameters(), pl_module.model.parameters(), strict=True)
        trained = [(average, weight) for average, weight in pairs if weight.requires_grad]
        averages, weights = ([*each] for each in zip(*trained, strict=True))
        with torch.no_grad():
            torch._foreach_lerp_(averages, weights, 1 - kept_share(self._decay, step))
            for average, buffer in zip(
                self.model.buffers(), pl_module.model.buffers(), strict=True
            ):
                average.copy_(buffer)

    def on_validation_epoch_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._sum = torch.zeros(len(pl_module.shares), 2, dtype=torch.float64)

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        tokens, targets, counts = batch
        with trainer.precision_plugin.val_step_context():
            sums = pl_module.sequence_mode.summed(self.model, tokens, targets)
        if counts:
            self._sum[dataloader_idx] += torch.tensor(sums, dtype=torch.float64)

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        total = trainer.strategy.reduce(self._sum.to(pl_module.device), reduce_op="sum")
        losses = (total[:, 0] / total[:, 1]).tolist()
        pl_module.val_ema_loss = mean_loss(losses, pl_module.shares)

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        left = frozen_names(pl_module.model)
        averages = self.model.state_dict().items()
        checkpoint[KEY] = {f"model.{name}": one for name, one in averages if name not in left}

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        held: Mapping[str, Tensor] = checkpoint.get(KEY, checkpoint["state_dict"])
        averages = {name.removeprefix("model."): held[name] for name in held}
        self.model.load_state_dict({**self.model.state_dict(), **averages})
