"""The C++ kernels of `cuda/pointwise_cpu.cpp`."""

from __future__ import annotations

from ctypes import POINTER, c_float, c_int, c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor

from models.wkv.library import CpuLibrary, new

_SHAPE: list[Any] = [c_int64] * 3
_COUNT: list[Any] = [c_int64]
_ROWS: list[Any] = [c_int64] * 2
_MANY: Any = POINTER(c_void_p)
library = CpuLibrary(
    "pointwise",
    ["pointwise_cpu.cpp"],
    ["vec.h", "elements.h"],
    {
        "gate": [*_COUNT, *[c_void_p] * 3],
        "gate_backward": [*_COUNT, *[c_void_p] * 5],
        "squared_relu": [*_COUNT, *[c_void_p] * 2],
        "squared_relu_backward": [*_COUNT, *[c_void_p] * 3],
        "swiglu": [*_ROWS, *[c_void_p] * 2],
        "swiglu_backward": [*_ROWS, *[c_void_p] * 3],
        "rms_norm": [*_ROWS, *[c_void_p] * 2, c_float, *[c_void_p] * 2],
        "rms_norm_backward": [*_ROWS, *[c_void_p] * 6],
        "rotate": [*[c_int64] * 6, *[c_void_p] * 4],
        "token_shift_mix": [*_SHAPE, c_int, *[c_void_p] * 3, _MANY],
        "token_shift_mix_backward": [*_SHAPE, c_int, *[c_void_p] * 3, _MANY, *[c_void_p] * 3],
    },
)


def gate(r: Tensor, x: Tensor) -> Tensor:
    """sigmoid(r) * x."""
    r, x, out = r.contiguous(), x.contiguous(), new(x)
    library.call("gate", x.dtype, x.numel(), r, x, out)
    return out


def gate_backward(r: Tensor, x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of r and x."""
    r, x, grad, gr, gx = r.contiguous(), x.contiguous(), grad.contiguous(), new(r), new(x)
    library.call("gate_backward", x.dtype, x.numel(), r, x, grad, gr, gx)
    return gr, gx


def squared_relu(x: Tensor) -> Tensor:
    """max(x, 0) squared."""
    x, out = x.contiguous(), new(x)
    library.call("squared_relu", x.dtype, x.numel(), x, out)
    return out


def squared_relu_backward(x: Tensor, grad: Tensor) -> Tensor:
    """Gradient of x."""
    x, grad, gx = x.contiguous(), grad.contiguous(), new(x)
    library.call("squared_relu_backward", x.dtype, x.numel(), x, grad, gx)
    return gx


def swiglu(x: Tensor) -> Tensor:
    """silu(gate) * up of x = (gate, up) `[..., 2 F]`."""
    x, width = x.contiguous(), x.shape[-1] // 2
    out = torch.empty(*x.shape[:-1], width, dtype=x.dtype)
    library.call("swiglu", x.dtype, out.numel() // width, width, x, out)
    return out


def swiglu_backward(x: Tensor, grad: Tensor) -> Tensor:
    """Gradient of x."""
    x, grad, gx, width = x.contiguous(), grad.contiguous(), new(x), x.shape[-1] // 2
    library.call("swiglu_backward", x.dtype, grad.numel() // width, width, x, grad, gx)
    return gx


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x / rms * weight, and 1 / rms of every row."""
    x, weight, width = x.contiguous(), weight.contiguous(), x.shape[-1]
    out, inverse = new(x), torch.empty(x.shape[:-1])
    library.call("rms_norm", x.dtype, inverse.numel(), width, x, weight, eps, out, inverse)
    return out, inverse


def rms_norm_backward(
    x: Tensor, weight: Tensor, inverse: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of x and weight."""
    x, weight, grad, width = x.contiguous(), weight.contiguous(), grad.contiguous(), x.shape[-1]
    gx, gweight = new(x), new(weight)
    inputs = (x, weight, inverse, grad, gx, gweight)
    library.call("rms_norm_backward", x.dtype, inverse.numel(), width, *inputs)
    return gx, gweight


def rotate(x: Tensor, cos: Tensor, sin: Tensor, direction: int) -> Tensor:
    """As `pointwise.rotate`; direction -1 turns back. x may be a slice of a wider projection."""
    batch, length, heads, size = x.shape
    rows_alike = x.stride(2) == size and x.stride(0) == length * x.stride(1)
    if x.stride(3) != 1 or not rows_alike:
        x = x.contiguous()
    out = new(x)
    shape = (batch * length, length, heads, size // 2, x.stride(1), direction)
    library.call("rotate", x.dtype, *shape, x, cos.contiguous(), sin.contiguous(), out)
    return out


def token_shift_mix(z: Tensor, previous: Tensor, mu: Tensor) -> list[Tensor]:
    """As `pointwise.token_shift_mix`."""
    z, previous, mu = z.contiguous(), previous.contiguous(), mu.contiguous()
    out = [new(z) for _ in mu]
    library.call("token_shift_mix", z.dtype, *z.shape, len(mu), z, previous, mu, out)
    return out


def token_shift_mix_backward(
    z: Tensor, previous: Tensor, mu: Tensor, grads: list[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of z, previous and mu."""
    z, previous, mu = z.contiguous(), previous.contiguous(), mu.contiguous()
    grads = [x.contiguous() for x in grads]
    gz, gp, gmu = new(z), new(previous), new(mu)
    name = "token_shift_mix_backward"
    library.call(name, z.dtype, *z.shape, len(mu), z, previous, mu, grads, gz, gp, gmu)
    return gz, gp, gmu
