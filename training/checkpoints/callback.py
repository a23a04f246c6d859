"""Saves a run, keeps the checkpoints that are to stay, and stops it when it is asked to."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import lightning

from conf.schema import TrainConf
from core.files import discard, manifest_path, write_text
from core.stop_signals import Preempted, Signals
from models.formats.run_checkpoints import is_sharded, is_there
from models.formats.tuned import PART
from models.layers.compiled import in_use
from tracking.lightning_loggers import JsonlLogger
from training.checkpoints.async_io import BackgroundIO
from training.checkpoints.find import path_of, saved, step_of
from training.checkpoints.keep import Keep
from training.checkpoints.rng import random_state, set_random_state
from training.checkpoints.validation import FORMAT
from training.distributed.local_processes import RankInfo
from training.run_folder.folder import RunFolder
from training.run_folder.numerics import machine, warn_of_other_bits

# What the processes agree on after a step: the greatest request of any of them.
GO_ON, SAVE, STOP, REQUEUE = range(4)


class Checkpointer(lightning.Callback):
    """Saves by steps, by minutes, at the end, at a new lowest validation loss, and when asked to
    stop; keeps what `checkpoint.keep` says.

    A step that ends in a validation is saved after it, so that whoever continues there neither
    repeats the validation nor leaves it out. With each checkpoint travel the state of every
    process's random generators and plain values: `identity`, which whoever resumes must share, and
    `decided_by`, which a run that continues by itself must share.
    """

    def __init__(
        self,
        folder: RunFolder,
        conf: TrainConf,
        identity: dict[str, Any],
        decided_by: dict[str, Any],
        signals: Signals,
        member: RankInfo,
        start: dict[str, Any] | None,
        measured: str | None = None,
    ) -> None:
        """`start` is the content of the checkpoint to continue from; `measured` the fingerprint of
        the text that the validation loss is of, where it is not held out of what is trained on.
        """
        self.folder, self._conf = folder, conf.checkpoint
        self._keep = Keep.parse(conf.checkpoint.keep)
        self._identity, self._decided_by = identity, decided_by
        self._val_every = conf.trainer.val_check_interval
        self._signals = signals
        self._start = start
        self.member = member
        self.resumes = start is not None
        self._step = self._saved_step = (start or {}).get("global_step") or -1
        ours = (start or {}).get("crossover", {})
        before = ours.get("lowest", [each for each in [ours.get("best")] if each])
        # The best of a branch are its own: those of its parent lie elsewhere.
        self._lowest = [each for each in before if is_there(path_of(folder, each["step"]))]
        """Steps and losses of the best checkpoints so far, the best first."""
        self._measured = measured or (ours.get("measured") if self._lowest else None)
        self._asked = GO_ON
        self._last_save = time.monotonic()
        if self._conf.sharded:
            from training.checkpoints.sharded_io import ShardedIO  # imports much of torch

            self.io: BackgroundIO = ShardedIO(member, start, self._tidy)
        else:
            self.io = BackgroundIO(start, self._tidy)
        self.seconds = 0.0
        """Time for which saving has held up the loop."""

    def finish_tidying(self) -> None:
        """Do what a kill after the last save may have left undone: that may be the last step."""
        ours = (self._start or {}).get("crossover", {})
        if self.member.rank == 0 and "lowest" in ours:
            self._tidy({"crossover": ours})

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        if self._start is not None and "crossover" in self._start:
            set_random_state(self._start["crossover"]["random"], self.member.rank)
            if self.member.rank == 0:
                warn_of_other_bits(
                    self._start["crossover"].get("machine"),
                    pl_module.device,
                    self.member.world,
                    in_use(pl_module.model)["compile"],
                )
        self._start = None
        self._last_save = time.monotonic()
        self._signals.patient = True

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        step = trainer.global_step
        if step == self._step:  # a micro-batch of an unfinished optimizer step
            return
        self._step = step
        self.io.check()
        self._asked = self.member.all_reduce_max(self._request(step))
        if not self._val_every or step % self._val_every:
            self._act(trainer)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        loss, step = pl_module.val_loss, trainer.global_step
        if self._conf.best and loss < (self._lowest[0]["val_loss"] if self._lowest else math.inf):
            self._asked = max(self._asked, SAVE)
        if self._conf.best and self._asked >= SAVE and math.isfinite(loss):
            entered = [*self._lowest, {"step": step, "val_loss": loss}]
            most = max(self._keep.best, 1)  # one tells which loss is a new lowest
            self._lowest = sorted(entered, key=lambda each: (each["val_loss"], each["step"]))[:most]
        self._act(trainer)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._save(trainer)
        self._wait()

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["crossover"] = {
            "format": FORMAT,
            "identity": self._identity,
            "run": self._decided_by,
            "random": self.member.gather(random_state()),
            "best": self._lowest[0] if self._lowest else None,
            "lowest": [*self._lowest],
            "measured": self._measured,
            "ledger": pl_module.ledger.as_dict(),
            "rows": next(
                (logger.written() for logger in trainer.loggers if isinstance(logger, JsonlLogger)),
                None,
            ),
            "scales": [key for key in checkpoint if key.endswith("Precision")],  # of fp16 losses
            "moments": len((checkpoint["optimizer_states"][0] or {}).get("state", {})),
            "machine": machine(
                pl_module.device, self.member.world, in_use(pl_module.model)["compile"]
            ),
        }
        if pl_module.tuned is not None:
            checkpoint["crossover"][PART] = pl_module.tuned

    def last_good(self) -> Path | None:
        """The newest checkpoint, once one still being written is safe."""
        self._wait()
        return next(reversed(saved(self.folder)), None)

    def close(self) -> None:
        """Training has ended, whatever the reason."""
        self._signals.patient = False
        self.io.teardown()

    def _request(self, step: int) -> int:
        if self._signals.asked:
            return REQUEUE if self._signals.requeue else STOP
        minutes = (time.monotonic() - self._last_save) / 60
        every = self._conf.every_n_train_steps
        by_step = every and step % every == 0
        by_rule = self._keep.every and step % self._keep.every == 0
        by_time = self._conf.every_minutes and minutes >= self._conf.every_minutes
        return SAVE if by_step or by_rule or by_time else GO_ON

    def _act(self, trainer: lightning.Trainer) -> None:
        asked, self._asked = self._asked, GO_ON
        if asked >= SAVE:
            self._save(trainer)
        if asked >= STOP:
            self._wait()
            raise Preempted(trainer.global_step, requeue=asked == REQUEUE)

    def _save(self, trainer: lightning.Trainer) -> None:
        step = trainer.global_step
        if step == self._saved_step or step == 0:
            return
        self._saved_step = step
        start = time.monotonic()
        trainer.save_checkpoint(path_of(self.folder, step))
        self._last_save = time.monotonic()
        self.seconds += self._last_save - start

    def _wait(self) -> None:
        start = time.monotonic()
        self.io.wait()
        self.seconds += time.monotonic() - start

    def _tidy(self, checkpoint: dict[str, Any]) -> None:
        """Name the best so far; delete what is not to stay."""
        ours = checkpoint["crossover"]
        paths = {step_of(path): path for path in saved(self.folder)}
        stay = self._keep.stay(paths, [each["step"] for each in ours["lowest"]])
        if (best := ours["best"]) is not None and best["step"] in stay & paths.keys():
            name = path_of(self.folder, best["step"]).name
            write_text(self.folder.best, json.dumps({"file": name, **best}) + "\n")
        elif best is not None:  # it is not to stay
            self.folder.best.unlink(missing_ok=True)
        for step, path in paths.items():
            if step not in stay and is_sharded(path):
                discard(path)
            elif step not in stay and not path.is_dir():
                # The manifest goes last: a checkpoint without one is passed over.
                path.unlink(missing_ok=True)
                manifest_path(path).unlink(missing_ok=True)
