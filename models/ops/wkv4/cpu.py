"""The C++ kernels of `cuda/wkv4/cpu.cpp`."""

from __future__ import annotations

from ctypes import c_int64, c_void_p

from torch import Tensor

from models.ops.cpu_library import CpuLibrary, allocate_like
from models.ops.wkv4.reference import CHUNK

library = CpuLibrary(
    "wkv4",
    ["wkv4/cpu.cpp"],
    ["wkv4/math.h", "cpu/vec.h", "common/elements.h"],
    {
        "wkv4_forward": [*[c_int64] * 3, *[c_void_p] * 8],
        "wkv4_backward": [*[c_int64] * 3, *[c_void_p] * 12],
    },
)


def wkv4_forward(
    w: Tensor, u: Tensor, k: Tensor, v: Tensor, state: Tensor, save: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute `reference.wkv4_forward`; the checkpoints are empty unless `save`."""
    batch, length, channels = k.shape
    y, out = allocate_like(v), allocate_like(state)
    checkpoints = state.new_empty(batch, -(-length // CHUNK) if save else 0, 3, channels)
    results = [y, out, checkpoints if save else None]
    library.call("wkv4_forward", k.dtype, k.shape, [w, u, k, v, state], results)
    return y, out, checkpoints


def wkv4_backward(
    w: Tensor,
    u: Tensor,
    k: Tensor,
    v: Tensor,
    checkpoints: Tensor,
    adjoint: Tensor,
    grad_y: Tensor,
) -> tuple[Tensor, ...]:
    """Compute `reference.wkv4_backward`."""
    inputs = [w, u, k, v, checkpoints, adjoint, grad_y.to(v.dtype)]
    grads = [allocate_like(x) for x in (w, u, k, v, adjoint)]
    library.call("wkv4_backward", k.dtype, k.shape, inputs, grads)
    return tuple(grads)
