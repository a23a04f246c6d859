"""Rotary positions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from models.ops.cpu_library import allocate_like
from models.ops.custom_op import check_shapes, custom_op, shapes
from models.ops.elementwise.fused import NATIVE_DTYPES, device_of, native
from models.ops.elementwise.kernels import Pass, run

_SHAPES = shapes(x="B T H 2*n", cos="T n", sin="T n")


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (x_i, x_{i+N/2}) of x `[B, T, H, N]` by angles of cos and sin `[T, N/2]`."""
    check_shapes("rotate", _SHAPES, (x, cos, sin))
    if native(x, "heads", x.shape[-1] // 2):
        return _rotate(x, cos, sin, 1)
    return plain(x, cos, sin)


def plain(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Compute `rotate` in torch, in fp32 at least."""
    wide = torch.float32 if x.dtype in NATIVE_DTYPES else x.dtype
    first, second = x.to(wide).chunk(2, dim=-1)  # [B, T, H, N/2]
    cos, sin = cos[:, None], sin[:, None]  # [T, 1, N/2]
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return turned.to(x.dtype)


def _native(x: Tensor, cos: Tensor, sin: Tensor, direction: int) -> Tensor:
    """`rotate`, or its reverse; x may be a slice of a wider array."""
    batch, length, heads, size = x.shape
    rows_alike = x.stride(2) == size and x.stride(0) == length * x.stride(1)
    if x.stride(3) != 1 or not rows_alike:
        x = x.contiguous()
    out = allocate_like(x)
    sizes = (batch * length, length, heads, size // 2, x.stride(1))
    fields = [x, cos.contiguous(), sin.contiguous(), float(direction), out]
    run(Pass("heads", "heads", "rotate", x.dtype, x.dtype, sizes, fields, []), device_of(x))
    return out


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, cos, sin, ctx.direction = inputs
    ctx.save_for_backward(cos, sin)  # not x: turning is linear


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _rotate(grad, *ctx.saved_tensors, -ctx.direction), None, None, None


_rotate = custom_op(
    "rotate",
    "(Tensor x, Tensor cos, Tensor sin, int direction) -> Tensor",
    _native,
    lambda x, cos, sin, direction: x.new_empty(x.shape),
    dispatch=("CPU", "CUDA"),
    remember=_remember,
    differentiate=_differentiate,
)
