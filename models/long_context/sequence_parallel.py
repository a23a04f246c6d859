"""One sequence split over processes: each rank reads its own span of tokens.

Three things cross from one span to the next.

* A token shift needs the last vector of the span before, a short convolution the last few: they are
  sent to everyone. A running sum begins with the sums of the spans before.
* A recurrent state is linear in the state a span began with, S' = carry(S, summary), and `carry` is
  associative. So every rank summarises its span from an empty state, all at the same time, the
  summaries are exchanged, and each rank folds those before its own into the state it begins with.
* Attention needs the keys and values of all spans before: they are gathered, as in the training of
  Llama 3 (arXiv 2407.21783, section 3.3.2).

A model knows nothing of it: what crosses spans goes through functions marked in
`models.ops.intercept`, and each has a rule here that takes its place.

Every exchange is an all-gather whose gradient is a sum over ranks, so the gradients are exact: the
sum over ranks of each one's gradients is that of the whole sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from core.errors import UserError
from models.contract import State
from models.ops.intercept import intercept
from models.ops.short_convolution import last_tokens
from models.ops.wkv import wkv4_initial_state, wkv6_initial_state, wkv7_initial_state

Function = Callable[..., Any]


@dataclass(frozen=True)
class Split:
    """How the sequence is shared out: in equal spans, in the order of ranks."""

    group: Any
    rank: int
    world: int


# Not a context variable: gradients on a GPU are computed in another thread.
_split: Split | None = None


@contextmanager
def sequence_parallel(group: Any = None) -> Iterator[Split]:
    """Let models read spans: the ranks of `group` (default: all) hold a sequence between them.

    Each calls the model with its own tokens, equally many, and all call it alike. The backward pass
    belongs inside too. Raises `UserError` without a process group.
    """
    global _split
    if not dist.is_available() or not dist.is_initialized():
        raise UserError("sequence_parallel: there is no process group; start with torchrun")
    split = Split(group, dist.get_rank(group), dist.get_world_size(group))
    before, _split = _split, split
    try:
        with intercept(partial(spread, split)):
            yield split
    finally:
        _split = before


def spread(split: Split, function: Function, arguments: tuple[Any, ...]) -> Any:
    """Call an interceptable function of a model so that it sees all spans.

    Raises `UserError` for an operator that nobody knows how to summarise.
    """
    rule = _RULES.get(function.__name__)
    if rule is None:
        raise UserError(
            "sequence_parallel: models/long_context/sequence_parallel.py does not know how a span "
            f"is summarised for the operator {function.__name__}; train on whole sequences"
        )
    return rule(split, function, *arguments)


def current() -> Split | None:
    """The split in force, or None: the sequence is whole."""
    return _split


def own_span(split: Split, tokens: Tensor) -> Tensor:
    """This rank's part of `[B, T]`. Raises `UserError` if it cannot be shared out equally."""
    if tokens.shape[1] % split.world:
        raise UserError(
            f"{tokens.shape[1]} tokens cannot be shared by {split.world} ranks equally: choose a "
            f"context length that is a multiple of {split.world}"
        )
    return tokens.chunk(split.world, dim=1)[split.rank]


def spanned_objective(
    model: Any, tokens: Tensor, targets: Tensor, l2wrap: float = 0.0
) -> tuple[Tensor, Tensor]:
    """`model.objective` of a sequence `[B, T]` that every rank has and shares the work of.

    Call it inside `sequence_parallel`. Returns this rank's part of what to minimise (the parts add
    up to the whole, and so do their gradients: `sum_gradients`), and the whole loss.
    """
    if _split is None:
        raise UserError("spanned_objective: use it inside sequence_parallel")
    parts = own_span(_split, tokens), own_span(_split, targets)
    objective, loss, _ = model.objective(*parts, l2wrap=l2wrap)
    loss = loss.detach().clone() / _split.world
    dist.all_reduce(loss, group=_split.group)
    return objective / _split.world, loss


def sum_gradients(model: Any, split: Split) -> None:
    """Make every rank's parameter gradients those of the whole sequence."""
    for parameter in model.parameters():
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad, group=split.group)


def gather(x: Tensor, split: Split) -> Tensor:
    """x of every rank, stacked `[world, ...]`. The gradient is summed over ranks."""
    return _Gather.apply(x, split)


def _read(
    split: Split,
    hidden: Function,
    model: Any,
    tokens: Tensor,
    state: State | None,
    starts: Tensor | None,
) -> Any:
    """The model's hidden states, if it can read a span. Raises `UserError` if it cannot."""
    if not model.can_span:
        ways = " or in segments (training.segment)" if model.recurrent else ""
        raise UserError(
            f"sequence_parallel: {type(model).title} cannot be read in spans of a sequence; train "
            f"it on whole sequences{ways}"
        )
    if starts is not None:
        raise UserError("sequence_parallel: documents cannot be packed into a split sequence yet")
    if state is not None and not model.recurrent:
        raise UserError(
            f"sequence_parallel: {type(model).__name__} cannot keep a cache of a split sequence; "
            "give it the whole sequence, without a state"
        )
    return hidden(model, tokens, state, starts)


def _position(split: Split, _: Function, past: int, length: int) -> int:
    """Behind the spans of the ranks before this one."""
    return past + split.rank * length


def _shift(
    split: Split, shifted: Function, x: Tensor, state: State | None
) -> tuple[Tensor, Tensor]:
    """The last token of the span before this one, and of the whole sequence: `[B, C]` each."""
    ends = gather(x[:, -1], split)  # [world, B, C]
    if split.rank:
        return ends[split.rank - 1], ends[-1]
    return shifted(x, state)[0] + _kept(ends), ends[-1]


def _preceding(
    split: Split, _: Function, x: Tensor, state: Tensor | None, count: int
) -> tuple[Tensor, Tensor | None]:
    """The `count` tokens before this span, and the last ones of the whole sequence."""
    ends = gather(x[:, -count:] if count else x[:, :0], split)  # a span may have fewer
    begin = x.new_zeros(x.shape[0], count, x.shape[2]) if state is None else state.to(x.dtype)
    before = torch.cat((begin, *ends[: split.rank]), dim=1)
    after = None
    if state is not None:
        after = last_tokens(torch.cat((begin, *ends), dim=1), count)
    return last_tokens(before, count) + _kept(ends), after


def _running_sum(
    split: Split, running_sum: Function, x: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The sums of this span, behind those of all spans before, and the sum of the sequence."""
    sums, total = running_sum(x, None)
    totals = gather(total, split)  # [world, B, ...]
    begin = totals[: split.rank].sum(0)
    whole = totals.sum(0)
    if state is not None:
        begin, whole = begin + state.to(begin.dtype), whole + state.to(begin.dtype)
    return sums + begin[:, None], whole


def _attend(
    split: Split, attend: Function, q: Tensor, k: Tensor, v: Tensor, *options: Any
) -> Tensor:
    """Attention of this span's queries to the keys of all spans up to it."""
    k, v = (torch.cat(gather(x, split)[: split.rank + 1].unbind(), dim=2) for x in (k, v))
    return attend(q, k, v, *options)


def _recur(split: Split, operator: Function, *arguments: Any) -> tuple[Tensor, Tensor]:
    """A recurrence over all spans: this span's outputs, and the state after the last span."""
    *inputs, state, backend = arguments
    spans = _SPANS[operator.__name__]
    mine = spans.summarise(operator, inputs, backend)
    gathered = gather(torch.cat([part.flatten() for part in mine]), split)
    running = spans.empty(inputs) if state is None else state.float()
    begin = running
    for rank, row in enumerate(gathered.unbind()):
        if rank == split.rank:
            begin = running + _kept(gathered)
        pieces = row.split([part.numel() for part in mine])
        parts = [piece.view_as(part) for piece, part in zip(pieces, mine, strict=True)]
        running = spans.carry(running, *parts)
    y, _ = operator(*inputs, begin, backend)
    return y, running


def _kept(gathered: Tensor) -> Tensor:
    """Zero, depending on `gathered`: even a rank that uses nothing of it must join its gradient."""
    return 0 * gathered.flatten()[0]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, split: Split) -> Tensor:
        ctx.split = split
        x = x.contiguous()
        parts = [torch.empty_like(x) for _ in range(split.world)]
        dist.all_gather(parts, x, group=split.group)
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        total = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.split.group)
        return total[ctx.split.rank], None


class _Wkv4:
    """Spans of WKV-4: what stands before any token, what a span does, and the state after it."""

    @staticmethod
    def empty(inputs: Sequence[Tensor]) -> Tensor:
        k = inputs[2]
        return wkv4_initial_state(k.shape[0], k.shape[2], k.device)

    @staticmethod
    def summarise(wkv4: Function, inputs: Sequence[Tensor], backend: str) -> tuple[Tensor, ...]:
        w, u, k, v = inputs
        return w * k.shape[1], wkv4(w, u, k, v, None, backend)[1]

    @staticmethod
    def carry(state: Tensor, decay: Tensor, local: Tensor) -> Tensor:
        """Two sums with exponents, the older one decayed; see `models.ops.wkv4.reference.combine`.

        Exponents are scales and get no gradient; the decay does.
        """
        (a, b, p), (a_new, b_new, p_new) = state.unbind(1), local.unbind(1)
        decayed, p_new = p.detach() + decay, p_new.detach()
        top = torch.maximum(decayed, p_new).detach()
        old, new = torch.exp(decayed - top), torch.exp(p_new - top)
        return torch.stack((old * a + new * a_new, old * b + new * b_new, top), dim=1)


class _Wkv6:
    """Spans of WKV-5 and WKV-6."""

    @staticmethod
    def empty(inputs: Sequence[Tensor]) -> Tensor:
        batch, _, heads, size = inputs[0].shape
        return wkv6_initial_state(batch, heads, size, inputs[0].device)

    @staticmethod
    def summarise(wkv6: Function, inputs: Sequence[Tensor], backend: str) -> tuple[Tensor, ...]:
        r, w, k, v, u = inputs
        return w.expand(r.shape).sum(1), wkv6(r, w, k, v, u, None, backend)[1]

    @staticmethod
    def carry(state: Tensor, decay: Tensor, local: Tensor) -> Tensor:
        return torch.exp(decay)[..., None] * state + local


class _Wkv7:
    """Spans of WKV-7."""

    @staticmethod
    def empty(inputs: Sequence[Tensor]) -> Tensor:
        batch, _, heads, size = inputs[0].shape
        return wkv7_initial_state(batch, heads, size, inputs[0].device)

    @staticmethod
    def summarise(wkv7: Function, inputs: Sequence[Tensor], backend: str) -> tuple[Tensor, ...]:
        """What a span does to any state: the rows of a state are independent, so begin with I."""
        r, w, k, v, a, b = inputs
        batch, _, heads, size = r.shape
        identity = torch.eye(size, device=r.device).expand(batch, heads, size, size).contiguous()
        transfer = wkv7(r, w, k, torch.zeros_like(v), a, b, identity, backend)[1]
        return transfer, wkv7(r, w, k, v, a, b, None, backend)[1]

    @staticmethod
    def carry(state: Tensor, transfer: Tensor, local: Tensor) -> Tensor:
        return state @ transfer + local


_SPANS: dict[str, Any] = {"wkv4": _Wkv4, "wkv5": _Wkv6, "wkv6": _Wkv6, "wkv7": _Wkv7}

# By interceptable function: what takes its place where a sequence is split.
_RULES: dict[str, Callable[..., Any]] = {
    "hidden": _read,
    "first_position": _position,
    "shifted": _shift,
    "preceding": _preceding,
    "running_sum": _running_sum,
    "attend": _attend,
    **dict.fromkeys(_SPANS, _recur),
}
