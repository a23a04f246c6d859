"""The loss of a model on whole texts, and how it falls with the context that a token has.

A recurrent model reads each document from its beginning to its end. A model that attends reads
windows of a stated length, each half a window after the one before, and the second half of a window
counts: so no prediction but those at the beginning of a document has less than half of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from core.errors import UserError
from data.encoding import NOT_LEARNED, READ_ONLY, Marked, encoded
from data.text import TextTokenizer
from evaluation.shared_prefixes import LOGITS, log_probabilities
from models.contract import Model

PIECE = 1024
"""Tokens that are read at once, over all rows of a batch."""


@dataclass
class Bucket:
    """Predictions that have `low` to `high` tokens of context."""

    low: int
    high: int
    tokens: int = 0
    loss: float = 0.0
    """Mean, nats per token."""


@dataclass
class TextLoss:
    """What came of a set of documents."""

    context: int | None
    """Most tokens of context; None: all that there are."""
    documents: int = 0
    bytes: int = 0
    """Size of the texts whose tokens count, UTF-8."""
    tokens: int = 0
    """Number of tokens that were predicted and count: those that a training would learn."""
    read_tokens: int = 0
    """Number of tokens that were predicted, with those that a training would only read."""
    nats: float = 0.0
    """Sum of their losses."""
    buckets: list[Bucket] = field(default_factory=list)
    """Context lengths 1, 2 to 3, 4 to 7, 8 to 15 ..."""

    @property
    def loss(self) -> float:
        """Mean, nats per token."""
        return self.nats / self.tokens

    @property
    def bits_per_byte(self) -> float:
        """Loss over the size of the text, which can be compared between tokenizers."""
        return self.nats / math.log(2) / self.bytes

    def add(self, context: Tensor, losses: Tensor) -> None:
        """Enter predictions: tokens of context `[T]` that each had, and losses `[T]`, nats."""
        self.nats += float(losses.sum(dtype=torch.float64))
        self.tokens += len(losses)
        which = context.double().log2().floor().long()
        counts = which.bincount().tolist()
        sums = which.bincount(losses.double()).tolist()
        for power, (count, total) in enumerate(zip(counts, sums, strict=True)):
            if power == len(self.buckets):
                self.buckets.append(Bucket(2**power, 2 ** (power + 1) - 1))
            if count:
                bucket = self.buckets[power]
                whole = bucket.loss * bucket.tokens + total
                bucket.tokens += count
                bucket.loss = whole / bucket.tokens

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as evaluation.json has them."""
        rows = [asdict(bucket) for bucket in self.buckets if bucket.tokens]
        figures = {"loss": self.loss, "bits_per_byte": self.bits_per_byte}
        return {**asdict(self), **figures, "buckets": rows}


def text_loss(
    model: Model,
    tokenizer: TextTokenizer,
    texts: Iterable[Marked],
    context: int | None = None,
    show: Callable[[int], object] = lambda read: None,
) -> TextLoss:
    """Read every text by itself. `show` is called after each with how many have been read.

    A text begins with the tokenizer's end-of-text token; where it has none, its first token is not
    predicted, and the bytes of that token do not count. Nor does what a training would only read:
    it is context alone. With `context`, no prediction has more tokens before it. Raises `UserError`
    if there is no token to predict.
    """
    result = TextLoss(context)
    for text in texts:
        marked = [int(i) for part, _ in encoded(text, tokenizer) for i in part]
        ids = [token & ~READ_ONLY for token in marked]
        learned = torch.tensor([not token & READ_ONLY for token in marked], dtype=torch.bool)
        result.documents += 1
        if len(ids) > 1:
            result.bytes += sum(len(part.encode()) for part, _, m in text if not m & NOT_LEARNED)
            if tokenizer.end_of_text is None and learned[0]:
                result.bytes -= len(tokenizer.decode(ids[:1]).encode())
            read = 1
            for contexts, losses in token_losses(model, ids, context):
                kept = learned[read : read + len(losses)]
                read += len(losses)
                result.add(contexts[kept], losses[kept])
            result.read_tokens += len(ids) - 1
        show(result.documents)
    if not result.tokens:
        raise UserError(
            "these texts have no token to predict: they are empty, one token long, or nothing of "
            "them is learned"
        )
    return result


@torch.no_grad()
def token_losses(
    model: Model, ids: list[int], context: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Every token but the first: tokens of context `[T]` that it had, and its loss `[T]`, nats.

    Without `context` each has all before it, and the model carries its state from piece to piece.
    """
    device = next(model.parameters()).device  # type: ignore[attr-defined]
    tokens = torch.tensor(ids, device=device)
    inputs, targets = tokens[:-1], tokens[1:]
    length = len(inputs) if context is None else min(context, len(inputs))
    stride = max(1, length // 2)
    begins = [*range(0, len(inputs) - length, stride), len(inputs) - length]
    rows = max(1, PIECE // length)
    read = 0  # targets that have been counted
    for first in range(0, len(begins), rows):
        starts = begins[first : first + rows]
        windows = torch.stack([inputs[start : start + length] for start in starts])
        expected = torch.stack([targets[start : start + length] for start in starts])
        losses = torch.cat([*_losses(model, windows, expected)], dim=1).cpu()
        for start, row in zip(starts, losses, strict=True):
            new = row[read - start :]
            yield torch.arange(read - start, length) + 1, new
            read = start + length


def _losses(model: Model, inputs: Tensor, targets: Tensor) -> Iterator[Tensor]:
    """Losses `[B, n]` of `targets[B, T]` after `inputs[B, T]`, piece by piece."""
    batch, length = inputs.shape
    most = min(PIECE, LOGITS // model.config.vocab_size)
    piece = max(1, most // batch)
    state = model.init_state(batch, capacity=length) if piece < length else None
    for first in range(0, length, piece):
        part = slice(first, first + piece)
        logits, state = model(inputs[:, part], state)
        yield -log_probabilities(logits, targets[:, part])
