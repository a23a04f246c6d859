"""The recurrence of an LSTM as one operator that a compiler keeps whole.

Torch's own is not one to a compiler, which would unroll it into its T steps. This one calls what
torch calls, oneDNN on a CPU and cuDNN on a GPU, and carries what their backward passes need.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from models.ops.custom_op import custom_op

MODE = 2
"""An LSTM, in the numbers of oneDNN's and cuDNN's functions."""
aten = torch.ops.aten


def lstm(
    x: Tensor, h: Tensor, c: Tensor, weights: list[Tensor], learns: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """x `[B, T, C]` to y `[B, T, C]` and the last h and c `[B, C]`, from those before the first.

    `weights` are the matrices `[4 C, C]` of x and h, then their biases; `learns` says whether a
    backward pass may follow. All of one dtype; fp32 on a CPU.
    """
    y, h, c, _, _ = _lstm(x, h, c, *weights, learns)
    return y, h, c


def _forward(
    x: Tensor, h: Tensor, c: Tensor, a: Tensor, b: Tensor, e: Tensor, f: Tensor, learns: bool
) -> tuple[Tensor, ...]:
    width = h.shape[1]
    if x.device.type == "cpu":
        x, h, c = x.transpose(0, 1).contiguous(), h.contiguous(), c.contiguous()
        weights = [weight.detach() for weight in (a, b, e, f)]
        with torch.set_grad_enabled(learns):  # which oneDNN reads, beside what it is told
            y, h, c, reserve = aten.mkldnn_rnn_layer(
                x, *weights, h, c, False, [], MODE, width, 1, True, False, False, learns
            )
        reserve = x.new_empty(0, dtype=torch.uint8) if reserve is None else reserve
        packed = x.new_empty(0)
        y = y.transpose(0, 1).contiguous()
        h, c = h.view(-1, width), c.view(-1, width)
    else:
        y, h, c, reserve, packed = aten._cudnn_rnn(
            x.contiguous(), [a, b, e, f], 4, None, h[None].contiguous(), c[None].contiguous(),
            MODE, width, 0, 1, True, 0.0, learns, False, [], None,
        )  # fmt: skip
        y, h, c = y.contiguous(), h[0].clone(), c[0].clone()
    return y, h, c, reserve.flatten(), packed.flatten()


def _fake_forward(
    x: Tensor, h: Tensor, c: Tensor, a: Tensor, b: Tensor, e: Tensor, f: Tensor, learns: bool
) -> tuple[Tensor, ...]:
    context = torch.library.get_ctx()
    reserve, packed = context.new_dynamic_size(min=0), context.new_dynamic_size(min=0)
    states = h.new_empty(h.shape), c.new_empty(c.shape)
    reserved = x.new_empty(reserve, dtype=torch.uint8)
    return x.new_empty(x.shape), *states, reserved, x.new_empty(packed)


def _backward(
    x: Tensor, h: Tensor, c: Tensor, a: Tensor, b: Tensor, e: Tensor, f: Tensor,
    y: Tensor, h_last: Tensor, c_last: Tensor, reserve: Tensor, packed: Tensor,
    grad_y: Tensor, grad_h: Tensor, grad_c: Tensor,
) -> tuple[Tensor, ...]:  # fmt: skip
    width = h.shape[1]
    if x.device.type == "cpu":
        x, y, grad_y = (each.transpose(0, 1).contiguous() for each in (x, y, grad_y))
        gx, ga, gb, ge, gf, gh, gc = aten.mkldnn_rnn_layer_backward(
            x, a, b, e, f, h.contiguous(), c.contiguous(), y, h_last, c_last,
            grad_y, grad_h.contiguous(), grad_c.contiguous(),
            False, MODE, width, 1, True, True, False, [], False, reserve,
        )  # fmt: skip
        gx = gx.transpose(0, 1)
    else:
        gx, gh, gc, (ga, gb, ge, gf) = aten._cudnn_rnn_backward(
            x.contiguous(), [a, b, e, f], 4, packed, h[None].contiguous(), c[None].contiguous(),
            y, grad_y.contiguous(), grad_h[None].contiguous(), grad_c[None].contiguous(),
            MODE, width, 0, 1, True, 0.0, True, False, [], None, reserve, [True] * 4,
        )  # fmt: skip
    given = (x if x.device.type != "cpu" else gx, h, c, a, b, e, f)
    grads = (gx, gh, gc, ga, gb, ge, gf)
    return tuple(g.reshape(like.shape).contiguous() for g, like in zip(grads, given, strict=True))


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(*output[3:])
    ctx.save_for_backward(*inputs[:7], *output)


def _differentiate(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
    return *_lstm_backward(*ctx.saved_tensors, *grads[:3]), None


_GIVEN = "Tensor x, Tensor h, Tensor c, Tensor a, Tensor b, Tensor e, Tensor f"
_KEPT = "Tensor y, Tensor h_last, Tensor c_last, Tensor reserve, Tensor packed"
_lstm = custom_op(
    "lstm",
    f"({_GIVEN}, bool learns) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _forward,
    _fake_forward,
    remember=_remember,
    differentiate=_differentiate,
)
_lstm_backward = custom_op(
    "lstm_backward",
    f"({_GIVEN}, {_KEPT}, Tensor grad_y, Tensor grad_h, Tensor grad_c)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _backward,
    lambda *given: tuple(each.new_empty(each.shape) for each in given[:7]),
)
