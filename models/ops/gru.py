"""The recurrence of a GRU as one operator that a compiler keeps whole.

Torch's own is not one to a compiler, which would unroll it into its T steps. On a GPU this calls
cuDNN, as torch does. On a CPU the result is torch's to the bit and gradients are but for rounding:
y holds every h that was read, so that gates and the gradients of weights are products over all
tokens at once, and only what a step passes to the one before it is done step by step.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.ops.custom_op import custom_op

MODE = 3
"""A GRU, in the numbers of cuDNN's functions."""
aten = torch.ops.aten


def gru(x: Tensor, h: Tensor, weights: list[Tensor], learns: bool) -> tuple[Tensor, Tensor]:
    """x `[B, T, C]` to y `[B, T, C]` and the last h `[B, C]`, from the one before the first.

    `weights` are the matrices `[3 C, C]` of x and h, then their biases; `learns` says whether a
    backward pass may follow. All of one dtype.
    """
    y, h, _, _ = _gru(x, h, *weights, learns)
    return y, h


def _forward(
    x: Tensor, h: Tensor, a: Tensor, b: Tensor, e: Tensor, f: Tensor, learns: bool
) -> tuple[Tensor, ...]:
    if x.device.type == "cpu":
        with torch.no_grad():
            y, h = torch.gru(x, h[None], [a, b, e, f], True, 1, 0.0, False, False, True)
        reserve, packed = x.new_empty(0, dtype=torch.uint8), x.new_empty(0)
    else:
        y, h, _, reserve, packed = aten._cudnn_rnn(
            x.contiguous(), [a, b, e, f], 4, None, h[None].contiguous(), None,
            MODE, h.shape[1], 0, 1, True, 0.0, learns, False, [], None,
        )  # fmt: skip
    return y.contiguous(), h[0].clone(), reserve.flatten(), packed.flatten()


def _fake_forward(
    x: Tensor, h: Tensor, a: Tensor, b: Tensor, e: Tensor, f: Tensor, learns: bool
) -> tuple[Tensor, ...]:
    context = torch.library.get_ctx()
    reserve, packed = context.new_dynamic_size(min=0), context.new_dynamic_size(min=0)
    reserved = x.new_empty(reserve, dtype=torch.uint8)
    return x.new_empty(x.shape), h.new_empty(h.shape), reserved, x.new_empty(packed)


def _backward(
    x: Tensor, h: Tensor, a: Tensor, b: Tensor, e: Tensor, f: Tensor,
    y: Tensor, reserve: Tensor, packed: Tensor, grad_y: Tensor, grad_h: Tensor,
) -> tuple[Tensor, ...]:  # fmt: skip
    if x.device.type == "cpu":
        return _backward_of_steps(x, h, a, b, e, f, y, grad_y, grad_h)
    gx, gh, _, weights = aten._cudnn_rnn_backward(
        x.contiguous(), [a, b, e, f], 4, packed, h[None].contiguous(), None,
        y, grad_y.contiguous(), grad_h[None].contiguous(), None,
        MODE, h.shape[1], 0, 1, True, 0.0, True, False, [], None, reserve, [True] * 4,
    )  # fmt: skip
    grads = zip((gx, gh, *weights), (x, h, a, b, e, f), strict=True)
    return tuple(g.reshape(like.shape).contiguous() for g, like in grads)


def _backward_of_steps(
    x: Tensor, h: Tensor, a: Tensor, b: Tensor, e: Tensor, f: Tensor,
    y: Tensor, grad_y: Tensor, grad_h: Tensor,
) -> tuple[Tensor, ...]:  # fmt: skip
    """h' = n + z (h - n), with gates r and z, and n = tanh(W x + r (U h))."""
    before = torch.cat((h[:, None], y), 1)[:, :-1]  # [B, T, C], what each step read
    of_x, of_h = F.linear(x, a, e), F.linear(before, b, f)  # [B, T, 3 C]
    (xr, xz, xn), (hr, hz, hn) = of_x.chunk(3, -1), of_h.chunk(3, -1)
    r, z = (xr + hr).sigmoid(), (xz + hz).sigmoid()
    n = (xn + r * hn).tanh()
    # What each gate's argument gets of the gradient of h', which comes from the steps after it.
    by_n = (1 - z) * (1 - n * n)
    shares = torch.cat((by_n * hn * r * (1 - r), (before - n) * z * (1 - z), by_n * r), -1)
    to_h, carried = [], grad_h
    for step in range(x.shape[1] - 1, -1, -1):
        carried = carried + grad_y[:, step]
        to_h.append(carried)
        carried = carried * z[:, step] + (carried.repeat(1, 3) * shares[:, step]) @ b
    total = torch.stack(to_h[::-1], 1)  # [B, T, C], the gradient of every h'
    grad_of_h = total.repeat(1, 1, 3) * shares
    grad_of_x = torch.cat((grad_of_h[..., : -h.shape[1]], total * by_n), -1)
    flat_x, flat_h = grad_of_x.flatten(0, 1), grad_of_h.flatten(0, 1)
    return (
        grad_of_x @ a, carried, flat_x.T @ x.flatten(0, 1), flat_h.T @ before.flatten(0, 1),
        flat_x.sum(0), flat_h.sum(0),
    )  # fmt: skip


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    y, _, reserve, packed = output
    ctx.mark_non_differentiable(reserve, packed)
    ctx.save_for_backward(*inputs[:6], y, reserve, packed)


def _differentiate(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
    return *_gru_backward(*ctx.saved_tensors, *grads[:2]), None


_GIVEN = "Tensor x, Tensor h, Tensor a, Tensor b, Tensor e, Tensor f"
_gru = custom_op(
    "gru",
    f"({_GIVEN}, bool learns) -> (Tensor, Tensor, Tensor, Tensor)",
    _forward,
    _fake_forward,
    remember=_remember,
    differentiate=_differentiate,
)
_gru_backward = custom_op(
    "gru_backward",
    f"({_GIVEN}, Tensor y, Tensor reserve, Tensor packed, Tensor grad_y, Tensor grad_h)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _backward,
    lambda *given: tuple(each.new_empty(each.shape) for each in given[:6]),
)
