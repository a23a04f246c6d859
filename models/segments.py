"""Training on sequences of any length in constant memory: segments, with state and gradient.

A recurrent model is a function from (state, segment) to (state, loss), so the mean loss of a long
sequence can be differentiated a segment at a time:

    forward    segment by segment without a graph, keeping the state at every boundary
    backward   from the last segment to the first: recompute it with a graph, and pull back the
               gradients of its share of the loss and of the state that left it

The gradients are those of the whole sequence. What is held at once is the activations of one
segment and a state per boundary; the price is a second forward pass. Back-propagation through time
with checkpoints (Chen et al. 2016, arXiv 1604.06174), the checkpoints being the states.

Truncated back-propagation drops the gradient of the state, which makes one pass enough: cheaper,
and an approximation.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.contract import State, detach_state, map_state, named_tensors
from models.errors import UserError


@dataclass(frozen=True)
class Segment:
    """Consecutive tokens of all rows: int64 `[B, <= segment]`, and bool where given."""

    tokens: Tensor
    targets: Tensor
    starts: Tensor | None
    share: float
    """Of the positions of the whole sequence: the weight of this part of the mean."""


def segmented_objective(
    model: Any,
    tokens: Tensor,
    targets: Tensor,
    segment: int,
    l2wrap: float = 0.0,
    starts: Tensor | None = None,
    truncated: bool = False,
) -> tuple[Tensor, Tensor]:
    """`model.objective` of sequences read `segment` tokens at a time (the last may be shorter).

    tokens, targets and starts `[B, T]` are as for `models.contract.Contestant.objective`. Returns
    what to minimise and the loss to report, nats per token, both fp32 scalars and means over all
    B T positions. `truncated` cuts the gradient, and nothing else, at every boundary. Then the
    gradients are computed in the forward pass, so a loss scaled in fp16 comes too late for them.

    Raises `UserError` for a model whose state carries no gradient, or a segment longer than T.
    """
    if not model.recurrent:
        raise UserError(
            f"{type(model).__name__} cannot be trained in segments: its state is a cache that "
            "carries no gradient and grows with the context"
        )
    if not 1 <= segment <= tokens.shape[1]:
        raise UserError(
            f"a segment of {segment} tokens does not fit in a sequence of {tokens.shape[1]}"
        )
    segments = _cut(tokens, targets, starts, segment)
    if not torch.is_grad_enabled():
        return _forward(model, segments, l2wrap, None)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if truncated:
        return _Truncated.apply(model, segments, l2wrap, *parameters)
    return _Exact.apply(model, segments, l2wrap, *parameters)


def _cut(tokens: Tensor, targets: Tensor, starts: Tensor | None, length: int) -> list[Segment]:
    total = tokens.shape[1]
    segments = []
    for first in range(0, total, length):
        part = slice(first, min(first + length, total))
        here = None if starts is None else starts[:, part]
        share = (part.stop - part.start) / total
        segments.append(Segment(tokens[:, part], targets[:, part], here, share))
    return segments


def _forward(
    model: Any, segments: Sequence[Segment], l2wrap: float, kept: State | None
) -> tuple[Tensor, Tensor]:
    """Both means, without a graph; the state before every segment goes into `kept`."""
    objective = loss = torch.zeros((), device=segments[0].tokens.device)
    state = model.init_state(len(segments[0].tokens))
    with torch.no_grad():
        for number, one in enumerate(segments):
            if kept is not None:
                for place, leaf in zip(_leaves(kept), _leaves(state), strict=True):
                    place[number] = leaf
            part, part_loss, state = _objective(model, one, state, l2wrap)
            objective, loss = objective + one.share * part, loss + one.share * part_loss
    return objective, loss


def _objective(
    model: Any, one: Segment, state: State, l2wrap: float
) -> tuple[Tensor, Tensor, State]:
    return model.objective(one.tokens, one.targets, state, l2wrap=l2wrap, starts=one.starts)


class _Exact(torch.autograd.Function):
    """Parameters in, objective and loss out: autograd sees one operation.

    That is why accumulation, clipping, loss scaling and the gradient hooks of data parallelism
    work as for any model: every parameter gets its whole gradient once.
    """

    @staticmethod
    def forward(
        ctx: Any, model: Any, segments: list[Segment], l2wrap: float, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.model, ctx.segments, ctx.l2wrap, ctx.parameters = model, segments, l2wrap, parameters
        ctx.autocast = _autocast(segments[0].tokens.device.type)
        # All states in one piece per leaf: small tensors that live long, put between large ones
        # that do not, would leave holes which the allocator cannot use again.
        count, state = len(segments), model.init_state(len(segments[0].tokens))
        ctx.before = map_state(state, lambda leaf: leaf.new_empty(count, *leaf.shape))
        objective, loss = _forward(model, segments, l2wrap, ctx.before)
        ctx.mark_non_differentiable(loss)
        return objective, loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        gradients = _Gradients(ctx.parameters)
        state_grads: list[Tensor] = []
        for number in reversed(range(len(ctx.segments))):
            one, state = ctx.segments[number], _at(ctx.before, number)
            with torch.enable_grad(), ctx.autocast():
                objective, _, after = _objective(ctx.model, one, state, ctx.l2wrap)
            outputs, pulled = [objective], [grad * one.share]
            if state_grads:
                leaves = _leaves(after)
                outputs += leaves
                pulled += [x.to(y.dtype) for x, y in zip(state_grads, leaves, strict=True)]
            state_grads = gradients.add(outputs, pulled, _leaves(state))
        return None, None, None, *gradients.sums


class _Truncated(torch.autograd.Function):
    """The same without the gradient of the state, so each segment is differentiated at once."""

    @staticmethod
    def forward(
        ctx: Any, model: Any, segments: list[Segment], l2wrap: float, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        gradients = _Gradients(parameters)
        objective = loss = torch.zeros((), device=segments[0].tokens.device)
        state = model.init_state(len(segments[0].tokens))
        for one in segments:
            with torch.enable_grad():
                part, part_loss, state = _objective(model, one, state, l2wrap)
            gradients.add([part], [torch.full_like(part, one.share)], [])
            state = detach_state(state)
            objective, loss = objective + one.share * part.detach(), loss + one.share * part_loss
        ctx.gradients = gradients.sums
        ctx.mark_non_differentiable(loss)
        return objective, loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        scaled = (x if x is None else x * grad.to(x.dtype) for x in ctx.gradients)
        return None, None, None, *scaled


class _Gradients:
    """Gradients of the parameters, summed over segments."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._parameters = list(parameters)
        self.sums: list[Tensor | None] = [None] * len(self._parameters)

    def add(
        self, outputs: list[Tensor], pulled: list[Tensor], inputs: list[Tensor]
    ) -> list[Tensor]:
        """Pull `pulled` back through `outputs`; returns the gradients of `inputs`."""
        wanted = [*self._parameters, *inputs]
        found: list[Any] = list(torch.autograd.grad(outputs, wanted, pulled, allow_unused=True))
        for place, gradient in enumerate(found[: len(self.sums)]):
            if gradient is None:
                continue
            have = self.sums[place]
            # Not in place the first time: autograd may hand out one tensor twice.
            self.sums[place] = gradient.clone() if have is None else have.add_(gradient)
        unused = zip(found[len(self.sums) :], inputs, strict=True)
        return [torch.zeros_like(x) if gradient is None else gradient for gradient, x in unused]


def _leaves(state: State) -> list[Tensor]:
    return [leaf for _, leaf in named_tensors(state)]


def _at(kept: State, number: int) -> State:
    """One of the states kept, as the start of a graph."""
    return map_state(kept, lambda leaf: leaf[number].clone().requires_grad_())


def _autocast(device: str) -> Any:
    """A factory of contexts that repeat the present automatic precision in a backward pass."""
    enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)

    def repeat() -> AbstractContextManager[Any]:
        return torch.autocast(device, dtype=dtype, enabled=enabled)

    return repeat
