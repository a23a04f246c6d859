"""The C++ kernels of `cuda/*_cpu.cpp`: built on first use, called through their C interface."""

from __future__ import annotations

import ctypes
import functools
from ctypes import POINTER, c_float, c_int, c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor

from models.wkv.build import BuildError, shared_library
from models.wkv.reference import CHUNK

_SOURCES, _HEADERS = ["wkv4_cpu.cpp", "pointwise_cpu.cpp"], ["wkv4_math.h", "vec.h", "elements.h"]
_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
_SHAPE: list[Any] = [c_int64] * 3
_COUNT: list[Any] = [c_int64]
_ROWS: list[Any] = [c_int64] * 2
_MANY: Any = POINTER(c_void_p)
_ARGUMENTS = {
    "wkv4_forward": [*_SHAPE, *[c_void_p] * 8],
    "wkv4_backward": [*_SHAPE, *[c_void_p] * 12],
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
}
"""C signatures; every function ends with the number of threads."""


@functools.cache
def load() -> ctypes.CDLL:
    """The library, built if needed. Raises `BuildError`."""
    path = shared_library("cpu", _SOURCES, _HEADERS)
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise BuildError(f"{path} was built but cannot be loaded: {error}") from None
    for name, arguments in _ARGUMENTS.items():
        for dtype in _NAMES.values():
            getattr(library, f"{name}_{dtype}").argtypes = [*arguments, c_int]
    return library


def wkv4_forward(
    w: Tensor, u: Tensor, k: Tensor, v: Tensor, state: Tensor, save: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """As `reference.wkv4_forward`; the checkpoints are empty unless `save`."""
    batch, length, channels = k.shape
    w, u, k, v, state = (x.contiguous() for x in (w, u, k, v, state))
    y, out = _new(v), _new(state)
    checkpoints = torch.empty(batch, -(-length // CHUNK) if save else 0, 3, channels)
    saved = checkpoints if save else None
    _call("wkv4_forward", k.dtype, *k.shape, w, u, k, v, state, y, out, saved)
    return y, out, checkpoints


def wkv4_backward(
    w: Tensor,
    u: Tensor,
    k: Tensor,
    v: Tensor,
    checkpoints: Tensor,
    adjoint: Tensor,
    grad_y: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As `reference.wkv4_backward`."""
    inputs = [x.contiguous() for x in (w, u, k, v, checkpoints, adjoint, grad_y.to(v.dtype))]
    grads = gw, gu, gk, gv, before = [_new(x) for x in (w, u, k, v, adjoint)]
    _call("wkv4_backward", k.dtype, *k.shape, *inputs, *grads)
    return gw, gu, gk, gv, before


def gate(r: Tensor, x: Tensor) -> Tensor:
    """sigmoid(r) * x."""
    r, x, out = r.contiguous(), x.contiguous(), _new(x)
    _call("gate", x.dtype, x.numel(), r, x, out)
    return out


def gate_backward(r: Tensor, x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of r and x."""
    r, x, grad, gr, gx = r.contiguous(), x.contiguous(), grad.contiguous(), _new(r), _new(x)
    _call("gate_backward", x.dtype, x.numel(), r, x, grad, gr, gx)
    return gr, gx


def squared_relu(x: Tensor) -> Tensor:
    """max(x, 0) squared."""
    x, out = x.contiguous(), _new(x)
    _call("squared_relu", x.dtype, x.numel(), x, out)
    return out


def squared_relu_backward(x: Tensor, grad: Tensor) -> Tensor:
    """Gradient of x."""
    x, grad, gx = x.contiguous(), grad.contiguous(), _new(x)
    _call("squared_relu_backward", x.dtype, x.numel(), x, grad, gx)
    return gx


def swiglu(x: Tensor) -> Tensor:
    """silu(gate) * up of x = (gate, up) `[..., 2 F]`."""
    x, width = x.contiguous(), x.shape[-1] // 2
    out = torch.empty(*x.shape[:-1], width, dtype=x.dtype)
    _call("swiglu", x.dtype, out.numel() // width, width, x, out)
    return out


def swiglu_backward(x: Tensor, grad: Tensor) -> Tensor:
    """Gradient of x."""
    x, grad, gx, width = x.contiguous(), grad.contiguous(), _new(x), x.shape[-1] // 2
    _call("swiglu_backward", x.dtype, grad.numel() // width, width, x, grad, gx)
    return gx


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x / rms * weight, and 1 / rms of every row."""
    x, weight, width = x.contiguous(), weight.contiguous(), x.shape[-1]
    out, inverse = _new(x), torch.empty(x.shape[:-1])
    _call("rms_norm", x.dtype, inverse.numel(), width, x, weight, eps, out, inverse)
    return out, inverse


def rms_norm_backward(
    x: Tensor, weight: Tensor, inverse: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of x and weight."""
    x, weight, grad, width = x.contiguous(), weight.contiguous(), grad.contiguous(), x.shape[-1]
    gx, gweight = _new(x), _new(weight)
    inputs = (x, weight, inverse, grad, gx, gweight)
    _call("rms_norm_backward", x.dtype, inverse.numel(), width, *inputs)
    return gx, gweight


def rotate(x: Tensor, cos: Tensor, sin: Tensor, direction: int) -> Tensor:
    """As `pointwise.rotate`; direction -1 turns back. x may be a slice of a wider projection."""
    batch, length, heads, size = x.shape
    rows_alike = x.stride(2) == size and x.stride(0) == length * x.stride(1)
    if x.stride(3) != 1 or not rows_alike:
        x = x.contiguous()
    out = _new(x)
    shape = (batch * length, length, heads, size // 2, x.stride(1), direction)
    _call("rotate", x.dtype, *shape, x, cos.contiguous(), sin.contiguous(), out)
    return out


def token_shift_mix(z: Tensor, previous: Tensor, mu: Tensor) -> list[Tensor]:
    """As `pointwise.token_shift_mix`."""
    z, previous, mu = z.contiguous(), previous.contiguous(), mu.contiguous()
    out = [_new(z) for _ in mu]
    _call("token_shift_mix", z.dtype, *z.shape, len(mu), z, previous, mu, out)
    return out


def token_shift_mix_backward(
    z: Tensor, previous: Tensor, mu: Tensor, grads: list[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of z, previous and mu."""
    z, previous, mu = z.contiguous(), previous.contiguous(), mu.contiguous()
    grads = [x.contiguous() for x in grads]
    gz, gp, gmu = _new(z), _new(previous), _new(mu)
    name = "token_shift_mix_backward"
    _call(name, z.dtype, *z.shape, len(mu), z, previous, mu, grads, gz, gp, gmu)
    return gz, gp, gmu


def _new(like: Tensor) -> Tensor:
    """A contiguous tensor of the shape and dtype of `like`, not filled."""
    return torch.empty(like.shape, dtype=like.dtype)


def _call(name: str, dtype: torch.dtype, *arguments: float | Tensor | list[Tensor] | None) -> None:
    """Call kernel `name` for `dtype`: numbers as they are, contiguous tensors as addresses."""
    values: list[object] = []
    for x in arguments:
        if isinstance(x, Tensor):
            values.append(x.data_ptr())
        elif isinstance(x, list):
            values.append((c_void_p * len(x))(*(y.data_ptr() for y in x)))
        else:
            values.append(x)
    getattr(load(), f"{name}_{_NAMES[dtype]}")(*values, torch.get_num_threads())
