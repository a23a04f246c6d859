"""Reports a training while it runs: rows for the loggers and one live line for the terminal."""

from __future__ import annotations

import functools
import resource
import sys
import time
from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any

import lightning
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from conf.schema import TrainConf
from core.units import bits_per_byte, size_bytes
from data.growth import Growth
from data.mixture import Heldout
from models.contract import TRAINING_FACTOR
from models.layers.compiled import graphs
from tracking.progress import time_left
from tracking.throughput import Throughput
from training.loop.expenses import Expenses
from training.loop.module import LanguageModel
from training.loop.nan_guard import NanGuard
from training.run_folder.ledger import Ledger


def peak_memory(device: torch.device) -> int:
    """Most bytes this process has held: allocated on a GPU, resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes if sys.platform == "darwin" else kilobytes * 1024


class Monitor(lightning.Callback):
    """Logs every `trainer.log_every_n_steps` optimizer steps and after each validation.

    `tokens_per_byte` of the corpus turns nats per token into bits per byte, which can be compared
    between tokenizers; None where there is no text. Every row carries the tokens, operations and
    seconds of the training so far, so that any of them can be the axis of a curve. Each optimizer
    step is entered in `ledger`, before others save it.
    """

    def __init__(
        self,
        conf: TrainConf,
        tokens_per_byte: float | None,
        ledger: Ledger | None = None,
        flops_per_step: int = 0,
        spared_per_step: int = 0,
    ) -> None:
        """`flops_per_step` are those of forward passes; `spared_per_step` those of gradients that
        frozen weights do not need."""
        self._log_every = conf.trainer.log_every_n_steps
        self._tokens_per_step = (
            conf.data.batch_size * conf.data.length * conf.trainer.accumulate_grad_batches
        )
        self._tokens_per_byte = tokens_per_byte
        self.ledger, self._flops_per_step = ledger or Ledger(), flops_per_step
        self._spared_per_token = spared_per_step // self._tokens_per_step
        self._expenses = Expenses.of(
            conf, TRAINING_FACTOR * flops_per_step - spared_per_step, self._tokens_per_step
        )
        self._line = Line(str(conf.name)) if conf.trainer.enable_progress_bar else None
        self._since_line: list[list[Any]] = []
        """Losses of the optimizer steps since the last line, still on the device."""
        self._cost_of: Callable[[int], tuple[int, int]] | None = None
        """Tokens and operations of a step counted from 0, where steps differ."""
        self._parts_of: Callable[[int], dict[str, int]] | None = None
        """Tokens of each part of a mixture in a micro-batch, counted from 0."""
        self._accumulate = conf.trainer.accumulate_grad_batches
        self._texts: Sequence[Heldout] = ()
        self._last_step = 0
        self._masked = False
        """Whether steps learn only some of their tokens."""
        self._interrupted = False
        self._graphs = 0
        """Compiled so far by this process."""
        self.throughput = Throughput()

    def grow(self, growth: Growth, flops: Callable[[int, int], int]) -> None:
        """Count batches as large as they are; `flops` are those of so many rows and tokens."""

        @functools.cache  # few shapes, and many steps
        def cost_of(rows: int, length: int) -> tuple[int, int]:
            return growth.accumulate * rows * length, growth.accumulate * flops(rows, length)

        self._cost_of = lambda step: cost_of(*growth.shape(step))

    def tell_apart(
        self, texts: Sequence[Heldout], parts_of: Callable[[int], dict[str, int]] | None
    ) -> None:
        """Report each named text that validates, and enter the tokens of each part of a mixture."""
        self._texts, self._parts_of = texts, parts_of

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._last_step = trainer.global_step
        if self._line is not None and trainer.is_global_zero:
            self._line.start(trainer.global_step, int(trainer.max_steps))
        if self._expenses is not None and trainer.is_global_zero:
            self._expenses.start(pl_module.device, trainer.world_size)
        self.throughput.start()

    def on_train_batch_start(self, *args: Any) -> None:
        if self._interrupted:  # by a validation or a save, which are not training time
            self.throughput.start()
            self._interrupted = False

    def on_save_checkpoint(self, *args: Any) -> None:
        self.pause()

    def pause(self) -> None:
        """What has just been done is no training time."""
        self._interrupted = True

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *args: Any) -> None:
        step = trainer.global_step
        if step == self._last_step:  # a micro-batch of an unfinished optimizer step
            return
        self._last_step = step
        module: LanguageModel = pl_module
        self._masked = module.learned is not None
        if module.learned != 0:  # else there is no loss
            self._since_line.append(module.losses)  # their means are taken where they are shown
        tokens, flops = self._tokens_per_step, self._flops_per_step
        if self._cost_of is not None:
            tokens, flops = self._cost_of(step - 1)
        compiled, self._graphs = self._graphs, graphs()
        self.throughput.step(tokens, warm=compiled == self._graphs)
        spared = tokens * self._spared_per_token
        self.ledger.add(tokens, flops, module.learned, spared)
        if self._parts_of is not None:
            for number in range((step - 1) * self._accumulate, step * self._accumulate):
                self.ledger.add_parts(self._parts_of(number))
        if step % self._log_every and step != trainer.max_steps:
            return
        # One small batch says little: people are shown the mean since the last line.
        known = bool(self._since_line)
        mean, means = _mean(module.losses), [_mean(losses) for losses in self._since_line]
        both = torch.stack([mean, torch.stack(means or [mean]).mean()])
        self._since_line.clear()
        loss, running = trainer.strategy.reduce(both, reduce_op="mean").tolist()
        row = {
            **({} if module.learned == 0 else self._losses("train/", loss)),
            "train/lr": module.rate,
            "train/grad_norm": float(module.grad_norm),
            "train/peak_memory_bytes": peak_memory(module.device),
        }
        for guard in NanGuard.among(trainer):
            counts = {"skipped": guard.skipped, "overflowed": guard.overflowed}
            row |= {f"train/{what}_steps": count for what, count in counts.items() if count}
        if (rate := self.throughput.tokens_per_second_now) is not None:
            row["train/tokens_per_second"] = rate
            # Operations per token are those of whole sequences.
            if self._expenses is not None and tokens == self._tokens_per_step:
                row |= self._expenses.use(rate)
        self._log(trainer, row, running if known else None)
        # For callbacks that monitor it; the loggers have their row.
        pl_module.log("train/loss", loss, logger=False)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        loss, averaged = pl_module.val_loss, pl_module.val_ema_loss
        row = self._losses("val/", loss)
        if averaged is not None:
            row["val/ema_loss"] = averaged
        texts = zip_longest(self._texts, pl_module.val_losses, pl_module.val_right)
        for text, own, right in texts:
            if text is None:  # a training that was not told apart
                continue
            group = f"val/{text.name}/" if text.name else "val/"
            if text.name:
                row |= text.losses(group, own)
            if right is not None:
                row |= right.named(group)
        self._log(trainer, row)
        self._interrupted = True

    def _losses(self, group: str, loss: float) -> dict[str, float]:
        """A loss in nats per token, and in bits per byte where there is a text."""
        row = {f"{group}loss": loss}
        if self._tokens_per_byte is not None:
            row[f"{group}bits_per_byte"] = bits_per_byte(loss, self._tokens_per_byte)
        return row

    def _spent(self) -> dict[str, float]:
        """What the training has cost so far, as far as it is known: the axes of every row."""
        flops, spent = self.ledger.operations, self.throughput.all_seconds
        ledger = self.ledger
        only_some = self._masked or ledger.trained_tokens != ledger.tokens
        known = {
            "train/tokens": ledger.tokens,
            "train/trained_tokens": ledger.trained_tokens if only_some else None,
            "train/flops": flops,
            "train/seconds": spent,
        }
        figures = {key: value for key, value in known.items() if value is not None}
        return figures if self._expenses is None else figures | self._expenses.spent(spent)

    def state_dict(self) -> dict[str, Any]:
        state = self.throughput.state()
        if self._expenses is not None:
            state["joules"] = self._expenses.state()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.throughput.restore(state_dict)
        self.go_on_after(state_dict)

    def go_on_after(self, state_dict: dict[str, Any]) -> None:
        """Let the sums of this training include those of another, of which this is the state."""
        self.throughput.all_seconds = state_dict.get("all_seconds")
        if self._expenses is not None:
            self._expenses.restore(state_dict.get("joules"))

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self.close()

    def on_exception(self, trainer: lightning.Trainer, *args: Any) -> None:
        self.close()

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._line is not None:
            self._line.stop()

    def _log(
        self, trainer: lightning.Trainer, row: dict[str, float], running: float | None = None
    ) -> None:
        row = {**row, **self._spent()}
        for logger in trainer.loggers:
            logger.log_metrics(row, step=trainer.global_step)
        if self._line is not None and trainer.is_global_zero:
            mean = {} if running is None else self._losses("mean/", running)
            self._line.show(trainer.global_step, {**row, **mean})


def _mean(losses: list[Any]) -> torch.Tensor:
    """The mean loss of the micro-batches of one optimizer step."""
    return torch.as_tensor(sum(losses)) / len(losses)


class Line:
    """Run, step, time left, mean loss since the last line, speed and memory; a bar on a terminal.

    Where standard error is no terminal, a line of text each time instead.
    """

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._name, self._clock = name, clock
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task: TaskID | None = None
        self._figures: dict[str, float] = {}
        self._first = self._total = 0
        self._begin = 0.0

    def start(self, step: int, total: int) -> None:
        self._first, self._total, self._begin = step, total, self._clock()
        self._task = self._progress.add_task(self._name, total=total, completed=step, figures="")
        self._progress.start()

    def show(self, step: int, row: dict[str, float]) -> None:
        self._figures.update(row)
        text = describe(self._figures)
        if not self._console.is_terminal:
            # Not through rich, which wraps what is wider than it believes a pipe to be.
            line = f"{self._name}  step {step} of {self._total}{self._left(step)}  {text}"
            print(line, file=sys.stderr, flush=True)
        elif self._task is not None:
            self._progress.update(self._task, completed=step, figures=text)

    def stop(self) -> None:
        self._progress.stop()

    def _left(self, step: int) -> str:
        """The time that the remaining steps take at the pace so far, or nothing."""
        if not self._first < step < self._total:
            return ""
        pace = (self._clock() - self._begin) / (step - self._first)
        return time_left(pace * (self._total - step))


def describe(figures: dict[str, float]) -> str:
    """The figures of a training line that are known so far, with units."""
    parts = []
    if "mean/loss" in figures:
        parts.append(f"loss {figures['mean/loss']:.3f}")
    if "mean/bits_per_byte" in figures:
        parts.append(f"{figures['mean/bits_per_byte']:.3f} bits/byte")
    if "val/loss" in figures:
        parts.append(f"val {figures['val/loss']:.3f}")
    if "val/accuracy" in figures:
        parts.append(f"{figures['val/accuracy']:.1%} right")
    if "train/tokens_per_second" in figures:
        parts.append(f"{figures['train/tokens_per_second']:,.0f} tokens/s")
    if "train/mfu" in figures:
        parts.append(f"{figures['train/mfu']:.0%} MFU")
    if "train/joules" in figures:
        parts.append(f"{figures['train/joules'] / 1e3:,.1f} kJ")
    if "train/peak_memory_bytes" in figures:
        parts.append(size_bytes(figures["train/peak_memory_bytes"]))
    return "  ".join(parts)
