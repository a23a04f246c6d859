"""The loss of a trained model on every validation token."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from conf.schema import TrainConf
from data.batches import all_validation
from data.store import Corpus
from models.contract import Model
from tracking.progress import Windows
from training.loop.objective import WHOLE, SequenceMode


def number_of_windows(corpus: Corpus, length: int) -> int:
    """Number of windows of the whole validation set; the last may be shorter than `length`."""
    return math.ceil((len(corpus.val) - 1) / length)


@torch.no_grad()
def full_validation(
    model: Model,
    corpus: Corpus,
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


def final_validation(conf: TrainConf, corpus: Corpus, model: Model, mode: SequenceMode) -> float:
    """`full_validation` of a run; it shows its progress, as it may take longer than training."""
    sizes = conf.data.length, conf.data.batch_size
    if not conf.trainer.enable_progress_bar:
        return full_validation(model, corpus, *sizes, mode)
    windows = number_of_windows(corpus, conf.data.length)
    with Windows(f"{conf.name}  final validation", windows) as progress:
        return full_validation(model, corpus, *sizes, mode, progress.show)
