"""The CUDA kernels of `cuda/wkv7/steps.cu`: WKV-7 token by token, for any GPU and wide heads.

They compute in fp32 and take no shared memory that must be asked for, but nothing in them is
parallel over time, nor done by tensor cores.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.ops.cpu_library import allocate_like
from models.ops.nvrtc import CudaLibrary
from models.ops.wkv7.reference import CHUNK

WIDTHS = (64, 128, 256)
"""Head sizes of the kernels."""
_DTYPES = ("float32", "bfloat16", "float16")
libraries = {
    width: CudaLibrary(
        "wkv7/steps.cu",
        ("gpu/machine.h", "common/elements.h"),
        tuple(
            f"wkv7_steps_{way}_{dtype}_{width}"
            for dtype in _DTYPES
            for way in ("forward", "backward")
        ),
        defined=f"SIZE={width}",
    )
    for width in WIDTHS
}
_THREADS = 256
_GRADIENTS = 5  # that are sums over value channels


def _rows(width: int) -> int:
    """Value channels of a block."""
    return 32 if width > 128 else 64


def forward(tensors: list[Tensor], state: Tensor, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    """`reference.wkv7_forward` of (r, w, k, v, a, b), contiguous and of a width of the kernels."""
    batch, length, heads, width = tensors[0].shape
    chunks = -(-length // CHUNK) if save else 0
    checkpoints = state.new_empty(batch, chunks, heads, width, width)
    y, out = allocate_like(tensors[0]), allocate_like(state)
    _launch("forward", tensors, (state, y, out, checkpoints if save else None))
    return y, out, checkpoints


def backward(
    tensors: list[Tensor], checkpoints: Tensor, grad_state: Tensor, grad_y: Tensor
) -> tuple[Tensor, ...]:
    """`reference.wkv7_backward` from the checkpoints, likewise."""
    r, width = tensors[0], tensors[0].shape[-1]
    sums = grad_state.new_empty(_GRADIENTS, width // _rows(width), *r.shape)
    gv, before = allocate_like(r), allocate_like(grad_state)
    _launch("backward", tensors, (checkpoints, grad_state, grad_y, sums, gv, before), r.numel())
    gr, gw, gk, ga, gb = sums.sum(1)
    return gr.to(r.dtype), gw, gk.to(r.dtype), gv, ga.to(r.dtype), gb.to(r.dtype), before


def _launch(
    way: str, tensors: list[Tensor], rest: tuple[Tensor | None, ...], *numbers: int
) -> None:
    like = tensors[0]
    batch, length, heads, width = like.shape
    dtype = str(like.dtype).removeprefix("torch.")
    libraries[width].launch(
        f"wkv7_steps_{way}_{dtype}_{width}",
        like.device,
        (batch * heads, width // _rows(width)),
        _THREADS,
        length,
        heads,
        *numbers,
        *tensors,
        *rest,
    )


def are_needed(device: torch.device, size: int, tiles: CudaLibrary) -> bool:
    """Whether heads are too wide for tiles, or the GPU older than what tiles need."""
    return size > WIDTHS[0] or not tiles.runs_on(device)
