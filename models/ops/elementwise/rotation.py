"""Rotary positions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from core.errors import UserError
from models.ops.elementwise import cpu
from models.ops.elementwise.fused import native, to_fp32


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (x_i, x_{i+N/2}) of x `[B, T, H, N]` by angles of cos and sin `[T, N/2]`."""
    if list(cos.shape) != [x.shape[1], x.shape[3] // 2] or x.shape[3] % 2:
        raise UserError(f"rotate: x {list(x.shape)} does not fit angles {list(cos.shape)}")
    if native(x):
        return torch.ops.crossover.rotate(x, cos, sin, 1)
    (first, second), (cos, sin) = to_fp32(*x.chunk(2, dim=-1)), (cos[:, None], sin[:, None])
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return turned.to(x.dtype)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, cos, sin, ctx.direction = inputs
    ctx.save_for_backward(cos, sin)  # not x: turning is linear


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    turned_back = torch.ops.crossover.rotate(grad, *ctx.saved_tensors, -ctx.direction)
    return turned_back, None, None, None


torch.library.define(
    "crossover::rotate", "(Tensor x, Tensor cos, Tensor sin, int direction) -> Tensor"
)
torch.library.impl("crossover::rotate", "CPU", cpu.rotate)
torch.library.register_fake("crossover::rotate", lambda x, cos, sin, _: x.new_empty(x.shape))
torch.library.register_autograd("crossover::rotate", _differentiate, setup_context=_setup)
