"""The C++ kernels of `cuda/wkv6/cpu.cpp`."""

from __future__ import annotations

from ctypes import c_int64, c_void_p

from torch import Tensor

from models.ops.cpu_library import CpuLibrary, allocate_like
from models.ops.wkv6.reference import CHUNK

library = CpuLibrary(
    "wkv6",
    ["wkv6/cpu.cpp"],
    ["wkv6/cpu_chunk.h", "wkv6/cpu_tiles.h", "wkv6/math.h", "cpu/vec.h", "common/elements.h"],
    {
        "wkv6_forward": [*[c_int64] * 5, *[c_void_p] * 9],
        "wkv6_backward": [*[c_int64] * 5, *[c_void_p] * 14],
    },
)


def wkv6_forward(
    r: Tensor, w: Tensor, k: Tensor, v: Tensor, u: Tensor, state: Tensor, save: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute `reference.wkv6_forward`; the checkpoints are empty unless `save`."""
    batch, length, heads, size = r.shape
    y, out = allocate_like(r), allocate_like(state)
    checkpoints = state.new_empty(batch, heads, -(-length // CHUNK) if save else 0, size, size)
    results = [y, out, checkpoints if save else None]
    sizes = (*r.shape, w.dim() == 2)
    library.call("wkv6_forward", r.dtype, sizes, [r, w, k, v, u, state], results)
    return y, out, checkpoints


def wkv6_backward(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    u: Tensor,
    checkpoints: Tensor,
    grad_state: Tensor,
    grad_y: Tensor,
) -> tuple[Tensor, ...]:
    """Compute `reference.wkv6_backward`."""
    inputs = [r, w, k, v, u, checkpoints, grad_y.to(r.dtype), grad_state]
    grads = [allocate_like(x) for x in (r, w, k, v, u, grad_state)]
    library.call("wkv6_backward", r.dtype, (*r.shape, w.dim() == 2), inputs, grads)
    return tuple(grads)
