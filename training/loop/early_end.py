"""Ends a training before its last step: no progress, a target reached, or worse than its group."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import lightning

from conf.schema import TrainConf, TrainingConf
from core.errors import UserError
from tracking.jsonl import read_rows

FEWEST = 3  # other runs of the group that must have been validated at a step


class EarlyEnd(lightning.Callback):
    """Looks at each validation loss, and asks the trainer to stop where there is a reason.

    A training that stops is saved and validated as at its last step, and its summary has the
    `reason`. With `training.prune=median`, `group` is the folder whose other runs are compared: a
    run whose loss is above the median of at least `FEWEST` others at the same step stops (the
    median rule of Golovin et al. 2017, section 3.2.1, on the last values).
    """

    def __init__(self, conf: TrainingConf, folder: Path, group: Path | None) -> None:
        self._conf, self._folder, self._group = conf, folder, group
        self._best: float | None = None
        self._waited = 0
        """Validations since the lowest loss."""
        self.reason: str | None = None
        self.pruned = False
        """Whether it ends because it was worse than its group."""

    @classmethod
    def of(cls, conf: TrainConf, folder: Path) -> EarlyEnd | None:
        """None where no key asks for an early end."""
        keys = conf.training
        if not keys.patience and not keys.target_loss and keys.prune == "never":
            return None
        return cls(keys, folder, folder.parent if conf.group else None)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        loss, step = pl_module.val_loss, trainer.global_step
        is_lower = math.isfinite(loss) and (self._best is None or loss < self._best)
        self._waited = 0 if is_lower else self._waited + 1
        self._best = loss if is_lower else self._best
        found = self._reason(loss, step) if trainer.is_global_zero else (None, False)
        self.reason, self.pruned = trainer.strategy.broadcast(found)
        if self.reason is not None:
            trainer.should_stop = True

    def _reason(self, loss: float, step: int) -> tuple[str | None, bool]:
        """Why to end, and whether that is the rule of `training.prune`."""
        conf = self._conf
        if conf.target_loss and loss <= conf.target_loss:
            return f"validation loss {loss:.4f} at step {step} reached the target", False
        if conf.patience and self._waited >= conf.patience:
            return f"no lower validation loss in {self._waited} validations, at step {step}", False
        if conf.prune == "median" and self._group is not None:
            others = losses_at(step, self._group, self._folder)
            if len(others) >= FEWEST and loss > (median := statistics.median(others)):
                reason = (
                    f"pruned: validation loss {loss:.4f} at step {step} is above {median:.4f}, the "
                    f"median of {len(others)} other runs of the group"
                )
                return reason, True
        return None, False

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best, "waited": self._waited} | {
            "reason": self.reason,
            "pruned": self.pruned,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._best, self._waited = state_dict["best"], state_dict["waited"]
        self.reason = state_dict["reason"]
        self.pruned = state_dict.get("pruned", False)  # older versions said it in the reason alone

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        if self.reason is not None:  # stopped, saved, and killed before its summary
            trainer.should_stop = True


def losses_at(step: int, group: Path, folder: Path) -> list[float]:
    """Validation losses at an optimizer step of the runs in `group` other than `folder`."""
    found = []
    for path in sorted(group.glob("*/metrics.jsonl")):
        if path.parent.resolve() == folder.resolve():
            continue
        try:
            rows = read_rows(path)
        except (OSError, UserError):
            continue  # another run's damaged record is no reason to stop this one
        at_step = [row.get("val/loss") for row in rows if row["step"] == step]
        # A loss that is not finite is recorded as null: that run is no measure for others.
        finite = [loss for loss in at_step if loss is not None and math.isfinite(loss)]
        found += finite[-1:]
    return found
