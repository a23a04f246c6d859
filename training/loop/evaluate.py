"""The last word on a trained model: its loss on every validation token."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from data.batches import all_validation
from data.store import Corpus
from models.contract import Model
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
    reading: SequenceMode = WHOLE,
    show: Callable[[int], object] = lambda done: None,
) -> float:
    """Mean loss, nats per token, over the whole validation set in windows of `length` tokens.

    Every validation token but the first is a target exactly once; each window starts without
    memory of the one before, for every model alike. `show` is told how many of
    `number_of_windows` have been read, after each batch.
    """
    total, count, windows = 0.0, 0, 0
    device = next(model.parameters()).device  # type: ignore[attr-defined]
    for tokens, targets in all_validation(corpus, length, batch):
        loss = reading.loss(model, tokens.to(device), targets.to(device))
        total += loss.item() * targets.numel()
        count += targets.numel()
        windows += len(targets)
        show(windows)
    return total / count


def bits_per_byte(loss: float, corpus: Corpus) -> float:
    """Nats per validation token as bits per byte of validation text."""
    return loss / math.log(2) * corpus.meta.val_tokens_per_byte
