"""The CUDA kernels of `cuda/wkv4/gpu.cu`."""

from __future__ import annotations

import torch
from torch import Tensor

from models.ops.cpu_library import allocate_like
from models.ops.nvrtc import CudaLibrary
from models.ops.wkv4.reference import CHUNK

_DTYPES = ("float32", "bfloat16", "float16")
library = CudaLibrary(
    "wkv4/gpu.cu",
    (
        "wkv4/scan.h",
        "wkv4/lookback.h",
        "wkv4/math.h",
        "gpu/pair.h",
        "gpu/machine.h",
        "common/elements.h",
    ),
    (
        *(f"wkv4_forward_{dtype}" for dtype in _DTYPES),
        *(f"wkv4_backward_{dtype}" for dtype in _DTYPES),
        "wkv4_reduce",
    ),
)

# Of cuda/wkv4/lookback.h: channels and tokens of a block, segments between full prefixes, threads.
_COLUMN, _SEGMENT, _GROUP, _THREADS = 64, 256, 16, 256
_SUMMARY = 8 * 32  # floats in a block's summary


def wkv4_forward(
    w: Tensor, u: Tensor, k: Tensor, v: Tensor, state: Tensor, save: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute `reference.wkv4_forward`; the checkpoints are empty unless `save`."""
    batch, length, channels = k.shape
    w, u, k, v, state = (x.contiguous() for x in (w, u, k, v, state))
    y, out = allocate_like(v), allocate_like(state)
    checkpoints = w.new_empty(batch, -(-length // CHUNK) if save else 0, 3, channels)
    saved = checkpoints if save else None
    _scan("wkv4_forward", k, w, u, k, v, state, y, out, saved)
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
    """Compute `reference.wkv4_backward`."""
    batch, length, channels = k.shape
    inputs = [x.contiguous() for x in (w, u, k, v, checkpoints, adjoint, grad_y.to(v.dtype))]
    partial = w.new_empty(batch, -(-length // _SEGMENT), 2, channels)
    gk, gv, before, total = (
        allocate_like(k),
        allocate_like(v),
        allocate_like(adjoint),
        w.new_empty(2, channels),
    )
    _scan("wkv4_backward", k, *inputs, partial, gk, gv, before)
    rows, width = partial.numel() // total.numel(), total.numel()
    library.launch("wkv4_reduce", k.device, -(-width // 32), 1024, rows, width, partial, total)
    return total[0].clone(), total[1].clone(), gk, gv, before


def _scan(name: str, k: Tensor, *tensors: Tensor | None) -> None:
    """Launch a scan over k's shape with a fresh board for its blocks to talk through."""
    batch, length, channels = k.shape
    columns, segments = batch * -(-channels // _COLUMN), -(-length // _SEGMENT)
    posts, totals = columns * segments, columns * -(-segments // _GROUP)
    flags = torch.zeros(1 + posts + totals, dtype=torch.int32, device=k.device)
    board = torch.empty((posts + totals) * _SUMMARY, dtype=torch.float32, device=k.device)
    dtype = str(k.dtype).removeprefix("torch.")
    library.launch(
        f"{name}_{dtype}",
        k.device,
        posts,
        _THREADS,
        *k.shape,
        *tensors,
        flags,
        flags[1:],
        flags[1 + posts :],
        board,
        board[posts * _SUMMARY :],
    )
