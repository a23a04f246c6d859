"""The loss of a trained model on every validation token."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from conf.schema import TrainConf
from data.batches import all_validation
from data.mixture import Heldout, Right
from data.store import Corpus
from data.tasks.task_data import TaskData
from models.contract import Model, makes_rows
from tracking.progress import Windows
from training.loop.objective import WHOLE, SequenceMode

JUDGED = 1
"""Seed of the noise of rows that are made to be judged."""


def number_of_windows(corpus: Corpus | TaskData, length: int) -> int:
    """Number of windows of the whole validation set; the last may be shorter than `length`."""
    if isinstance(corpus, TaskData):
        return corpus.heldout
    return math.ceil((len(corpus.val) - 1) / length)


@torch.no_grad()
def full_validation(
    model: Model,
    corpus: Corpus | TaskData,
    length: int,
    batch: int,
    mode: SequenceMode = WHOLE,
    show: Callable[[int], object] = lambda done: None,
) -> float:
    """Mean loss, nats per token, over the whole validation set in windows of `length` tokens.

    Every validation token but the first is a target exactly once, if it is learned; each window
    starts without memory of the one before, for every model alike. `show` is called after each
    batch with how many of `number_of_windows` have been read.
    """
    total, count, windows = 0.0, 0, 0
    device = next(model.parameters()).device  # type: ignore[attr-defined]
    for tokens, targets in all_validation(corpus, length, batch):
        loss, learned = mode.summed(model, tokens.to(device), targets.to(device))
        total += loss
        count += learned
        windows += len(targets)
        show(windows)
    return total / count


@torch.no_grad()
def full_answers(
    model: Model, corpus: Corpus | TaskData, batch: int, mode: SequenceMode, loss: float
) -> Right:
    """What the model answers right of all held-out sequences of a task; `loss` is its mean."""
    if isinstance(corpus, Corpus):
        return Right()
    if makes_rows(model):
        return judged(model, corpus, corpus.heldout, batch)
    missed = exact = targets_seen = 0
    device = next(model.parameters()).device  # type: ignore[attr-defined]
    for tokens, targets in all_validation(corpus, corpus.length, batch):
        of_row = mode.missed(model, tokens.to(device), targets.to(device))
        missed += int(of_row.sum())
        exact += int((of_row == 0).sum())
        targets_seen += int((targets >= 0).sum())
    asked = targets_seen / corpus.heldout
    return Right(1 - missed / targets_seen, exact / corpus.heldout, loss * asked / math.log(2))


@torch.no_grad()
def judged(model: Any, task: TaskData, count: int, batch: int) -> Right:
    """What the task's rule says of `count` rows that the model makes, the same noise each time."""
    generator, was_training = torch.Generator().manual_seed(JUDGED), model.training
    model.eval()
    formed = right = 0
    for first in range(0, count, batch):
        rows = model.make(min(batch, count - first), task.length, generator)
        verdict = task.task.judge(rows.cpu().numpy())  # type: ignore[attr-defined]
        formed, right = formed + int(verdict.formed.sum()), right + int(verdict.agrees.sum())
    model.train(was_training)
    return Right(exact_match=right / count, formed=formed / count)


def final_validation(
    conf: TrainConf, texts: Sequence[Heldout], model: Model, mode: SequenceMode
) -> list[float]:
    """`full_validation` of a run on each text that validates, nats per token.

    It shows its progress, as it may take longer than training.
    """
    corpora, sizes = [text.corpus for text in texts], (conf.data.length, conf.data.batch_size)
    if not conf.trainer.enable_progress_bar:
        return [full_validation(model, corpus, *sizes, mode) for corpus in corpora]
    windows = [number_of_windows(corpus, conf.data.length) for corpus in corpora]
    losses: list[float] = []
    with Windows(f"{conf.name}  final validation", sum(windows)) as progress:
        for corpus in corpora:
            show = partial(_show, progress, sum(windows[: len(losses)]))
            losses.append(full_validation(model, corpus, *sizes, mode, show))
    return losses


def _show(progress: Windows, before: int, done: int) -> None:
    progress.show(before + done)
