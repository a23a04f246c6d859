"""The C++ kernels of `cuda/wkv7/cpu.cpp`."""

from __future__ import annotations

from ctypes import c_int64, c_void_p

from torch import Tensor

from models.ops.cpu_library import CpuLibrary, allocate_like
from models.ops.wkv7.reference import CHUNK

library = CpuLibrary(
    "wkv7",
    ["wkv7/cpu.cpp"],
    ["wkv7/cpu_block.h", "wkv7/cpu_layout.h", "cpu/matrix.h", "cpu/vec.h", "common/elements.h"],
    {
        "wkv7_forward": [*[c_int64] * 4, *[c_void_p] * 10],
        "wkv7_backward": [*[c_int64] * 4, *[c_void_p] * 16],
    },
)


def wkv7_forward(
    r: Tensor, w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, state: Tensor, save: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute `reference.wkv7_forward`; checkpoints are `[.., key, value]`, none unless `save`."""
    batch, length, heads, size = r.shape
    y, out = allocate_like(r), allocate_like(state)
    checkpoints = state.new_empty(batch, -(-length // CHUNK) if save else 0, heads, size, size)
    results = [y, out, checkpoints if save else None]
    library.call("wkv7_forward", r.dtype, r.shape, [r, w, k, v, a, b, state], results)
    return y, out, checkpoints


def wkv7_backward(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    checkpoints: Tensor,
    grad_state: Tensor,
    grad_y: Tensor,
) -> tuple[Tensor, ...]:
    """Compute `reference.wkv7_backward` from the checkpoints of `wkv7_forward`."""
    inputs = [r, w, k, v, a, b, checkpoints, grad_state, grad_y.to(r.dtype)]
    grads = [allocate_like(x) for x in (r, w, k, v, a, b, grad_state)]
    library.call("wkv7_backward", r.dtype, r.shape, inputs, grads)
    return tuple(grads)
