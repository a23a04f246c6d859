"""The C++ kernels of `cuda/wkv7_cpu.cpp`."""

from __future__ import annotations

from ctypes import c_int64, c_void_p

from torch import Tensor

from models.wkv.library import CpuLibrary, new
from models.wkv.v7.reference import CHUNK

library = CpuLibrary(
    "wkv7",
    ["wkv7_cpu.cpp"],
    ["wkv7_block.h", "wkv7_heads.h", "matrix.h", "vec.h", "elements.h"],
    {
        "wkv7_forward": [*[c_int64] * 4, *[c_void_p] * 10],
        "wkv7_backward": [*[c_int64] * 4, *[c_void_p] * 16],
    },
)


def wkv7_forward(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `reference.wkv7_forward`; checkpoints are `[.., key, value]`, and none unless `save`."""
    inputs = [x.contiguous() for x in (r, w, k, v, a, b, state)]
    batch, length, heads, size = r.shape
    chunks = -(-length // CHUNK) if save else 0
    y, out = new(r), new(state)
    checkpoints = state.new_empty(batch, chunks, heads, size, size)
    saved = checkpoints if save else None
    library.call("wkv7_forward", r.dtype, *r.shape, *inputs, y, out, saved)
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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As `reference.wkv7_backward`, from the checkpoints of `wkv7_forward`."""
    inputs = [x.contiguous() for x in (r, w, k, v, a, b, checkpoints, grad_state)]
    grads = gr, gw, gk, gv, ga, gb, before = [new(x) for x in (r, w, k, v, a, b, grad_state)]
    library.call(
        "wkv7_backward", r.dtype, *r.shape, *inputs, grad_y.to(r.dtype).contiguous(), *grads
    )
    return gr, gw, gk, gv, ga, gb, before
