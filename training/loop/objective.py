"""How a batch is read: whole or in segments, its documents together or apart."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from conf.schema import TrainConf
from core.errors import UserError
from data.text import TextTokenizer
from models.contract import Model
from models.long_context import sequence_parallel
from models.long_context.segments import segmented_objective
from models.long_context.sequence_parallel import Split


@dataclass(frozen=True)
class SequenceMode:
    """Training and validation read alike, but for the gradients."""

    segment: int = 0
    """Tokens read at once; 0: the whole sequence."""
    truncated: bool = False
    """Whether gradients end at the boundaries of segments."""
    separator: int | None = None
    """The token every document begins with, where documents are read apart."""
    masked: bool = False
    """Whether there may be targets that are not learned: negative ones."""

    @classmethod
    def of(cls, conf: TrainConf, tokenizer: TextTokenizer, masked: bool = False) -> SequenceMode:
        """Read the configuration. Raises `UserError` if no token tells where documents begin."""
        separator = None
        if conf.data.packing == "documents":
            separator = tokenizer.end_of_text
            if separator is None:
                raise UserError(
                    f"data.packing=documents: data.tokenizer={conf.data.tokenizer!r} has no "
                    "end-of-text token to tell where documents begin; use bpe or bytes"
                )
        return cls(conf.training.segment, conf.training.bptt == "truncated", separator, masked)

    def objective(
        self,
        model: Model,
        tokens: Tensor,
        targets: Tensor,
        l2wrap: float = 0.0,
        z_loss: float = 0.0,
        total: float | None = None,
    ) -> tuple[Tensor, Tensor]:
        """What to minimise and the loss to report, as `Model.objective` has them.

        Where processes share a sequence (`models.long_context.sequence_parallel`), those of this
        one's span; their means over the processes are those of the sequence.
        """
        segment, split = self.segment, sequence_parallel.current()
        if split is not None:
            tokens, targets = (self._own(split, part) for part in (tokens, targets))
            segment //= split.world
        starts = None if self.separator is None else tokens == self.separator
        if 0 < segment < tokens.shape[1]:
            return segmented_objective(
                model, tokens, targets, segment, l2wrap, starts, self.truncated, z_loss, total
            )
        objective, loss, _ = model.objective(
            tokens, targets, l2wrap=l2wrap, starts=starts, z_loss=z_loss, total=total
        )
        return objective, loss

    def _own(self, split: Split, tokens: Tensor) -> Tensor:
        """This process's span of `[B, T]`, or of each segment of it."""
        length = self.segment or tokens.shape[1]
        spans = [
            sequence_parallel.own_span(split, segment) for segment in tokens.split(length, dim=1)
        ]
        return torch.cat(spans, dim=1)

    @torch.no_grad()
    def missed(self, model: Model, tokens: Tensor, targets: Tensor) -> Tensor:
        """How many of the learned `targets[B, T]` of each sequence are not the likeliest token
        where they stand: int64 `[B]`.

        Of the whole sequences in every process, where processes share them.
        """
        segment, split = self.segment, sequence_parallel.current()
        if split is not None:
            tokens, targets = (self._own(split, part) for part in (tokens, targets))
            segment //= split.world
        size = segment or tokens.shape[1]
        state = model.init_state(len(tokens)) if size < tokens.shape[1] else None
        count = torch.zeros(len(tokens), dtype=torch.int64, device=tokens.device)
        for piece, wanted in zip(tokens.split(size, 1), targets.split(size, 1), strict=True):
            logits, state = model(piece, state)
            count += ((logits.argmax(-1) != wanted) & (wanted >= 0)).sum(1)
        if split is not None:
            torch.distributed.all_reduce(count, group=split.group)
        return count

    def summed(self, model: Model, tokens: Tensor, targets: Tensor) -> tuple[float, int]:
        """Summed cross entropy of `targets[B, T]` in nats, and the number of those that count.

        Where processes share a sequence, this one's part of both.
        """
        if not self.masked:
            loss = self.objective(model, tokens, targets)[1]
            return loss.item() * targets.numel(), targets.numel()
        split = sequence_parallel.current()
        own = targets if split is None else self._own(split, targets)
        loss = self.objective(model, tokens, targets, total=1.0)[1]
        return loss.item(), int((own >= 0).sum())


WHOLE = SequenceMode()
