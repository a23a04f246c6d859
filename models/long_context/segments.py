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
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from core.errors import UserError
from models.contract import State, detach_state, map_state, named_tensors

Options = dict[str, Any]
"""Further arguments of `models.contract.Model.objective`, by the name there."""


@dataclass(frozen=True)
class Segment:
    """Consecutive tokens of all rows: int64 `[B, <= segment]`, and bool where given."""

    tokens: Tensor
    targets: Tensor
    starts: Tensor | None
    share: float
    """Share of the whole sequence's positions: the weight of this part of the mean. Parts that are
    divided by the total of all have the weight 1."""


def segmented_objective(
    model: Any,
    tokens: Tensor,
    targets: Tensor,
    segment: int,
    l2wrap: float = 0.0,
    starts: Tensor | None = None,
    truncated: bool = False,
    z_loss: float = 0.0,
    total: float | None = None,
) -> tuple[Tensor, Tensor]:
    """`model.objective` of sequences read `segment` tokens at a time (the last may be shorter).

    tokens, targets and starts `[B, T]` are as for `models.contract.Model.objective`. Returns
    what to minimise and the loss to report, nats per token, both fp32 scalars and means over all
    B T positions, or with `total` sums over the learned ones divided by it. `truncated` cuts the
    gradient, and nothing else, at every boundary. Then the gradients are computed in the forward
    pass, so a loss scaled in fp16 comes too late for them.

    Raises `UserError` for a model whose state carries no gradient, a segment longer than T, or
    `truncated` where the state before the first token is learned.
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
    if truncated and getattr(model, "initial", None) is not None:
        raise UserError(
            "truncated gradients do not reach the state before the first token, which is learned"
        )
    length = tokens.shape[1]
    segments = []
    for first in range(0, length, segment):
        part = slice(first, min(first + segment, length))
        here = None if starts is None else starts[:, part]
        share = (part.stop - part.start) / length if total is None else 1.0
        segments.append(Segment(tokens[:, part], targets[:, part], here, share))
    options: Options = {"l2wrap": l2wrap, "z_loss": z_loss}
    if total is not None:
        options["total"] = total
    if not torch.is_grad_enabled():
        return _forward(model, segments, options, None)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if truncated:
        return _Truncated.apply(model, segments, options, *parameters)
    return _Exact.apply(model, segments, options, *parameters)


def _forward(
    model: Any, segments: Sequence[Segment], options: Options, kept: State | None = None
) -> tuple[Tensor, Tensor]:
    """Both means, without a graph; the state before every segment goes into `kept`."""
    objective = loss = torch.zeros((), device=segments[0].tokens.device)
    state = model.init_state(len(segments[0].tokens))
    with torch.no_grad():
        for number, piece in enumerate(segments):
            if kept is not None:
                _copy(_leaves(_at(kept, number)), _leaves(state))
                state = _at(kept, number)
            part, part_loss, state = _objective(model, piece, state, options)
            objective, loss = (
                objective + piece.share * part,
                loss + piece.share * part_loss,
            )
    return objective, loss


def _objective(
    model: Any, piece: Segment, state: State, options: Options
) -> tuple[Tensor, Tensor, State]:
    return model.objective(piece.tokens, piece.targets, state, starts=piece.starts, **options)


class _Exact(torch.autograd.Function):
    """Parameters in, objective and loss out: autograd sees one operation.

    That is why accumulation, clipping, loss scaling and the gradient hooks of data parallelism
    work as for any model: every parameter gets its whole gradient once.

    All that outlives a segment is allocated before the first one. Small tensors that live long, put
    between large ones that do not, would leave holes that the allocator cannot use again: peaks
    half as large again were measured.
    """

    @staticmethod
    def forward(
        ctx: Any, model: Any, segments: list[Segment], options: Options, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.model, ctx.segments, ctx.parameters = model, segments, parameters
        ctx.options = options
        device = segments[0].tokens.device.type
        # Contexts that repeat the present automatic precision in the backward pass.
        enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
        ctx.autocast = partial(torch.autocast, device, dtype=dtype, enabled=enabled)
        count, state = len(segments), model.init_state(len(segments[0].tokens))
        ctx.before = map_state(state, lambda leaf: leaf.new_empty(count, *leaf.shape))
        objective, loss = _forward(model, segments, options, ctx.before)
        ctx.mark_non_differentiable(loss)
        return objective, loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        sums = [torch.zeros_like(parameter) for parameter in ctx.parameters]
        state_grads = [torch.zeros_like(leaf) for leaf in _leaves(_at(ctx.before, 0))]
        for number in reversed(range(len(ctx.segments))):
            _pull_back(ctx, number, grad, sums, state_grads)
        with torch.enable_grad():  # where the state before the first token is learned
            begins = _leaves(ctx.model.init_state(len(ctx.segments[0].tokens)))
        learned = [
            (leaf, pulled)
            for leaf, pulled in zip(begins, state_grads, strict=True)
            if leaf.requires_grad
        ]
        if learned:
            leaves, pulled = zip(*learned, strict=True)
            _add(sums, torch.autograd.grad(leaves, ctx.parameters, pulled, allow_unused=True))
        return None, None, None, *sums


def _pull_back(
    ctx: Any, number: int, grad: Tensor, sums: list[Tensor], state_grads: list[Tensor]
) -> None:
    """Recompute one segment and differentiate it.

    `state_grads` are those of the state after the segment, and become those of the state before.
    """
    piece = ctx.segments[number]
    state = map_state(_at(ctx.before, number), lambda leaf: leaf.detach().requires_grad_())
    with torch.enable_grad(), ctx.autocast():
        objective, _, after = _objective(ctx.model, piece, state, ctx.options)
    ends, begins = _leaves(after), _leaves(state)
    # What only frozen weights have made of the tokens has no gradient, as a shifted embedding.
    pairs = [
        (end, pulled) for end, pulled in zip(ends, state_grads, strict=True) if end.requires_grad
    ]
    outputs = [objective, *(end for end, _ in pairs)]
    pulled = [grad * piece.share, *(pulled.to(end.dtype) for end, pulled in pairs)]
    inputs = [*ctx.parameters, *begins]
    gradients = torch.autograd.grad(outputs, inputs, pulled, allow_unused=True)
    _add(sums, gradients[: len(sums)])
    _copy(state_grads, gradients[len(sums) :])


class _Truncated(torch.autograd.Function):
    """Cut the gradient at each boundary, so that each segment is differentiated at once."""

    @staticmethod
    def forward(
        ctx: Any, model: Any, segments: list[Segment], options: Options, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.sums = [torch.zeros_like(parameter) for parameter in parameters]
        objective = loss = torch.zeros((), device=segments[0].tokens.device)
        state = model.init_state(len(segments[0].tokens))
        kept = map_state(state, lambda leaf: leaf[None].clone())
        for piece in segments:
            with torch.enable_grad():
                part, part_loss, state = _objective(model, piece, _at(kept, 0), options)
                gradients = torch.autograd.grad(piece.share * part, parameters, allow_unused=True)
            _add(ctx.sums, gradients)
            _copy(_leaves(_at(kept, 0)), _leaves(detach_state(state)))
            objective, loss = (
                objective + piece.share * part.detach(),
                loss + piece.share * part_loss,
            )
            del part, state, gradients  # or they would live through the next segment
        ctx.mark_non_differentiable(loss)
        return objective, loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, None, *(x * grad.to(x.dtype) for x in ctx.sums)


def _add(sums: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    for place, gradient in zip(sums, gradients, strict=True):
        if gradient is not None:
            place += gradient


def _copy(places: Sequence[Tensor], values: Sequence[Tensor | None]) -> None:
    for place, value in zip(places, values, strict=True):
        if value is None:
            place.zero_()
        else:
            place.copy_(value)


def _at(kept: State, number: int) -> State:
    """One of the states kept: views."""
    return map_state(kept, lambda leaf: leaf[number])


def _leaves(state: State) -> list[Tensor]:
    return [leaf for _, leaf in named_tensors(state)]
