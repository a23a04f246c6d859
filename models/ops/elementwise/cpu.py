"""The C++ kernels of `cuda/cpu/elementwise.cpp` and `cuda/cpu/head_norms.cpp`.

Results come as lists, gradients as lists in the order of the tensor arguments.
"""

from __future__ import annotations

from ctypes import POINTER, c_float, c_int, c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor

from models.ops.cpu_library import CpuLibrary, allocate_like

_ROWS: list[Any] = [c_int64] * 2
_SHAPE: list[Any] = [c_int64] * 3
_MANY: Any = POINTER(c_void_p)
library = CpuLibrary(
    "pointwise",
    ["cpu/elementwise.cpp", "cpu/head_norms.cpp"],
    ["cpu/rows.h", "cpu/vec.h", "common/elements.h"],
    {
        "gate": [c_int64, *[c_void_p] * 3],
        "gate_backward": [c_int64, *[c_void_p] * 5],
        "squared_relu": [c_int64, *[c_void_p] * 2],
        "squared_relu_backward": [c_int64, *[c_void_p] * 3],
        "swiglu": [*_ROWS, *[c_void_p] * 2],
        "swiglu_backward": [*_ROWS, *[c_void_p] * 3],
        "rms_norm": [*_ROWS, *[c_void_p] * 2, c_float, c_void_p],
        "rms_norm_backward": [*_ROWS, *[c_void_p] * 2, c_float, *[c_void_p] * 3],
        "rotate": [*[c_int64] * 6, *[c_void_p] * 4],
        "token_shift_mix": [*_SHAPE, c_int, *[c_void_p] * 3, _MANY],
        "token_shift_mix_backward": [*_SHAPE, c_int, *[c_void_p] * 3, _MANY, *[c_void_p] * 3],
        "dynamic_mix": [*_SHAPE, *[c_void_p] * 4, _MANY],
        "dynamic_mix_backward": [*_SHAPE, *[c_void_p] * 4, _MANY, *[c_void_p] * 4],
        "gated_head_norm": [*_SHAPE, *[c_void_p] * 4, c_float, c_void_p],
        "gated_head_norm_backward": [*_SHAPE, *[c_void_p] * 4, c_float, *[c_void_p] * 5],
        "bonus_head_norm": [*_SHAPE, *[c_void_p] * 8, c_float, c_void_p],
        "bonus_head_norm_backward": [*_SHAPE, *[c_void_p] * 8, c_float, *[c_void_p] * 9],
        "delta_keys": [*_SHAPE, *[c_void_p] * 8],
        "delta_keys_backward": [*_SHAPE, *[c_void_p] * 13],
        "log_decay": [*_ROWS, *[c_void_p] * 3],
        "log_decay_backward": [*_ROWS, *[c_void_p] * 5],
        "value_residual": [*_ROWS, *[c_void_p] * 5],
        "value_residual_backward": [*_ROWS, *[c_void_p] * 9],
    },
)


def _dense(*tensors: Tensor) -> list[Tensor]:
    return [x.contiguous() for x in tensors]


def _rows(x: Tensor) -> tuple[int, int]:
    """Rows and width."""
    return x.numel() // x.shape[-1], x.shape[-1]


def _heads(x: Tensor) -> tuple[int, int, int]:
    """Rows, heads and channels of a head."""
    return x.numel() // (x.shape[-1] * x.shape[-2]), x.shape[-2], x.shape[-1]


def gate(r: Tensor, x: Tensor) -> list[Tensor]:
    r, x = _dense(r, x)
    out = allocate_like(x)
    library.call("gate", x.dtype, x.numel(), r, x, out)
    return [out]


def gate_backward(r: Tensor, x: Tensor, grads: list[Tensor]) -> list[Tensor]:
    r, x, grad = _dense(r, x, *grads)
    results = [allocate_like(r), allocate_like(x)]
    library.call("gate_backward", x.dtype, x.numel(), r, x, grad, *results)
    return results


def squared_relu(x: Tensor) -> list[Tensor]:
    (x,) = _dense(x)
    out = allocate_like(x)
    library.call("squared_relu", x.dtype, x.numel(), x, out)
    return [out]


def squared_relu_backward(x: Tensor, grads: list[Tensor]) -> list[Tensor]:
    x, grad = _dense(x, *grads)
    gx = allocate_like(x)
    library.call("squared_relu_backward", x.dtype, x.numel(), x, grad, gx)
    return [gx]


def swiglu(x: Tensor) -> list[Tensor]:
    (x,) = _dense(x)
    out = x.new_empty(*x.shape[:-1], x.shape[-1] // 2)
    library.call("swiglu", x.dtype, *_rows(out), x, out)
    return [out]


def swiglu_backward(x: Tensor, grads: list[Tensor]) -> list[Tensor]:
    x, grad = _dense(x, *grads)
    gx = allocate_like(x)
    library.call("swiglu_backward", x.dtype, *_rows(grad), x, grad, gx)
    return [gx]


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> list[Tensor]:
    x, weight = _dense(x, weight)
    out = allocate_like(x)
    library.call("rms_norm", x.dtype, *_rows(x), x, weight, eps, out)
    return [out]


def rms_norm_backward(x: Tensor, weight: Tensor, eps: float, grads: list[Tensor]) -> list[Tensor]:
    x, weight, grad = _dense(x, weight, *grads)
    results = [allocate_like(x), allocate_like(weight)]
    library.call("rms_norm_backward", x.dtype, *_rows(x), x, weight, eps, grad, *results)
    return results


def rotate(x: Tensor, cos: Tensor, sin: Tensor, direction: int) -> Tensor:
    """Compute `rotation.rotate`; direction -1 turns back. x may be a slice of a wider array."""
    batch, length, heads, size = x.shape
    rows_alike = x.stride(2) == size and x.stride(0) == length * x.stride(1)
    if x.stride(3) != 1 or not rows_alike:
        x = x.contiguous()
    out = allocate_like(x)
    shape = (batch * length, length, heads, size // 2, x.stride(1), direction)
    library.call("rotate", x.dtype, *shape, x, cos.contiguous(), sin.contiguous(), out)
    return out


def token_shift_mix(z: Tensor, previous: Tensor, mu: Tensor) -> list[Tensor]:
    z, previous, mu = _dense(z, previous, mu)
    out = [allocate_like(z) for _ in mu]
    library.call("token_shift_mix", z.dtype, *z.shape, len(mu), z, previous, mu, out)
    return out


def token_shift_mix_backward(
    z: Tensor, previous: Tensor, mu: Tensor, grads: list[Tensor]
) -> list[Tensor]:
    z, previous, mu, *grads = _dense(z, previous, mu, *grads)
    results = [allocate_like(x) for x in (z, previous, mu)]
    name = "token_shift_mix_backward"
    library.call(name, z.dtype, *z.shape, len(mu), z, previous, mu, grads, *results)
    return results


def dynamic_mix(z: Tensor, previous: Tensor, mu: Tensor, change: Tensor) -> list[Tensor]:
    inputs = _dense(z, previous, mu, change)
    out = [allocate_like(z) for _ in mu]
    library.call("dynamic_mix", z.dtype, *z.shape, *inputs, out)
    return out


def dynamic_mix_backward(
    z: Tensor, previous: Tensor, mu: Tensor, change: Tensor, grads: list[Tensor]
) -> list[Tensor]:
    inputs, results = (
        _dense(z, previous, mu, change),
        [allocate_like(x) for x in (z, previous, mu, change)],
    )
    library.call("dynamic_mix_backward", z.dtype, *z.shape, *inputs, _dense(*grads), *results)
    return results


def gated_head_norm(y: Tensor, g: Tensor, weight: Tensor, bias: Tensor, eps: float) -> list[Tensor]:
    inputs, out = _dense(y, g, weight, bias), allocate_like(g)
    library.call("gated_head_norm", y.dtype, *_heads(y), *inputs, eps, out)
    return [out]


def gated_head_norm_backward(
    y: Tensor, g: Tensor, weight: Tensor, bias: Tensor, eps: float, grads: list[Tensor]
) -> list[Tensor]:
    inputs, results = _dense(y, g, weight, bias), [allocate_like(x) for x in (y, g, weight, bias)]
    grad = _dense(*grads)
    library.call("gated_head_norm_backward", y.dtype, *_heads(y), *inputs, eps, *grad, *results)
    return results


def bonus_head_norm(y: Tensor, *rest: Any) -> list[Tensor]:
    *tensors, eps = rest
    inputs, out = _dense(y, *tensors), allocate_like(tensors[3])
    library.call("bonus_head_norm", y.dtype, *_heads(y), *inputs, eps, out)
    return [out]


def bonus_head_norm_backward(y: Tensor, *rest: Any) -> list[Tensor]:
    *tensors, eps, grads = rest
    inputs, results = _dense(y, *tensors), [allocate_like(x) for x in (y, *tensors)]
    shape, grad = _heads(y), _dense(*grads)
    library.call("bonus_head_norm_backward", y.dtype, *shape, *inputs, eps, *grad, *results)
    return results


def delta_keys(k: Tensor, *rest: Tensor) -> list[Tensor]:
    out = [allocate_like(k), allocate_like(k), allocate_like(k)]
    library.call("delta_keys", k.dtype, *_heads(k), *_dense(k, *rest), *out)
    return out


def delta_keys_backward(k: Tensor, *rest: Any) -> list[Tensor]:
    *tensors, grads = rest
    inputs, results = _dense(k, *tensors), [allocate_like(x) for x in (k, *tensors)]
    library.call("delta_keys_backward", k.dtype, *_heads(k), *inputs, *_dense(*grads), *results)
    return results


def log_decay(e: Tensor, w0: Tensor) -> list[Tensor]:
    inputs, out = _dense(e, w0), torch.empty(e.shape, dtype=torch.float32)
    library.call("log_decay", e.dtype, *_rows(e), *inputs, out)
    return [out]


def log_decay_backward(e: Tensor, w0: Tensor, grads: list[Tensor]) -> list[Tensor]:
    results = [allocate_like(e), allocate_like(w0)]
    library.call("log_decay_backward", e.dtype, *_rows(e), *_dense(e, w0, *grads), *results)
    return results


def value_residual(v: Tensor, *rest: Tensor) -> list[Tensor]:
    out = allocate_like(v)
    library.call("value_residual", v.dtype, *_rows(v), *_dense(v, *rest), out)
    return [out]


def value_residual_backward(v: Tensor, *rest: Any) -> list[Tensor]:
    *tensors, grads = rest
    inputs, results = _dense(v, *tensors), [allocate_like(x) for x in (v, *tensors)]
    library.call("value_residual_backward", v.dtype, *_rows(v), *inputs, *_dense(*grads), *results)
    return results
