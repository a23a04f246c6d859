"""The CUDA kernels of `cuda/wkv6/kernels.h`, one library for each head size."""

from __future__ import annotations

import torch
from torch import Tensor

from models.ops.cpu_library import allocate_like
from models.ops.nvrtc import CudaLibrary
from models.ops.wkv6.reference import CHUNK

SIZES = (32, 64, 128)
_DTYPES = ("float32", "bfloat16", "float16")
_HEADERS = (
    "wkv6/kernels.h",
    "wkv6/key_gradients.h",
    "wkv6/scan.h",
    "wkv6/math.h",
    "gpu/scalar.h",
    "gpu/machine.h",
    "common/elements.h",
)
libraries = {
    size: CudaLibrary(
        f"wkv6/gpu_{size}.cu",
        _HEADERS,
        (
            *(f"wkv6_summarise_{dtype}_{size}" for dtype in _DTYPES),
            f"wkv6_carry_{size}",
            *(f"wkv6_apply_{dtype}_{size}" for dtype in _DTYPES),
            f"wkv6_keys_{size}",
        ),
    )
    for size in SIZES
}
library = libraries[64]  # of all official models; the others are compiled when they are used

_BLOCKS = 4  # that a multiprocessor should have to work on: fewer heads are cut in time
_SEGMENT = 4  # chunks that a time segment should have at least: it costs two more passes


def wkv6_forward(
    r: Tensor, w: Tensor, k: Tensor, v: Tensor, u: Tensor, state: Tensor, save: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute `reference.wkv6_forward`; the checkpoints are empty unless `save`."""
    r, w, k, v, u = (x.contiguous() for x in (r, w, k, v, u))
    state = _aligned(state)
    y, out = allocate_like(r), allocate_like(state)
    checkpoints = _matrices(state, _chunks(r) if save else 0)
    _scan(False, w, u, r, k, v, y, state, out, checkpoints if save else None)
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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Compute `reference.wkv6_backward`: the scan from right to left, then each chunk alone.

    From right to left the state is the adjoint, k reads it, and r and grad_y feed it.
    """
    r, w, k, v, u, grad_y = (x.contiguous() for x in (r, w, k, v, u, grad_y.to(r.dtype)))
    checkpoints, grad_state = _aligned(checkpoints), _aligned(grad_state)
    gv, before, ends = allocate_like(v), allocate_like(grad_state), allocate_like(checkpoints)
    _scan(True, w, u, k, r, grad_y, gv, grad_state, before, ends)
    batch, _, heads, size = r.shape
    gr, gk, gu = allocate_like(r), allocate_like(k), w.new_empty(batch, _chunks(r), heads, size)
    gw = allocate_like(gu) if w.dim() == 2 else allocate_like(w)
    _keys(r, w, k, v, u, grad_y, checkpoints, ends, gr, gw, gk, gu)
    if w.dim() == 2:
        gw = _add_up(gw)
    return gr, gw, gk, gv, _add_up(gu), before


def _aligned(x: Tensor) -> Tensor:
    """x, contiguous and where four floats can be read at once."""
    x = x.contiguous()
    return x if x.data_ptr() % 16 == 0 else x.clone()


def _chunks(r: Tensor) -> int:
    return -(-r.shape[1] // CHUNK)


def _matrices(state: Tensor, count: int) -> Tensor:
    """`count` states for each head."""
    batch, heads, size, _ = state.shape
    return state.new_empty(batch, heads, count, size, size)


def _add_up(parts: Tensor) -> Tensor:
    """`[B, chunks, H, N]` to `[H, N]`."""
    return parts.sum((0, 1), dtype=torch.float64).float()


def _cut(heads: int, chunks: int, processors: int) -> tuple[int, int]:
    """Time segments, and chunks of each, that keep a GPU's multiprocessors busy."""
    segments = max(1, min(_BLOCKS * processors // heads, chunks // _SEGMENT))
    span = -(-chunks // segments)
    return -(-chunks // span), span


def _scan(
    back: bool,
    w: Tensor,
    u: Tensor,
    z: Tensor,
    p: Tensor,
    q: Tensor,
    out: Tensor,
    given: Tensor,
    result: Tensor,
    checkpoints: Tensor | None,
) -> None:
    """The recurrence in one direction, see `Pass` of cuda/wkv6/scan.h."""
    batch, length, heads, size = z.shape
    library, kernel = libraries[size], f"{_dtype(z)}_{size}"
    processors = torch.cuda.get_device_properties(z.device).multi_processor_count
    segments, span = _cut(batch * heads, _chunks(z), processors)
    shape = (length, heads, w.dim() == 2, back, segments, span)
    if segments > 1:
        sums, logs = _matrices(given, segments), w.new_empty(batch, heads, segments, size)
        grid = batch * heads * (segments - 1)
        library.launch(
            f"wkv6_summarise_{kernel}", z.device, grid, size, *shape, w, u, p, q, sums, logs
        )
        count = given.numel()
        library.launch(
            f"wkv6_carry_{size}",
            z.device,
            -(-count // 256),
            256,
            segments,
            count,
            given,
            sums,
            logs,
        )
        given = sums
    grid = batch * heads * segments
    tensors = (w, u, z, p, q, out, given, result, checkpoints)
    library.launch(f"wkv6_apply_{kernel}", z.device, grid, size, *shape, *tensors)


def _keys(r: Tensor, w: Tensor, *tensors: Tensor) -> None:
    """The gradients of r, w, k and u, see cuda/wkv6/key_gradients.h."""
    batch, length, heads, size = r.shape
    grid, dtype = batch * heads * _chunks(r), _DTYPES.index(_dtype(r))
    shape = (dtype, length, heads, w.dim() == 2)
    libraries[size].launch(f"wkv6_keys_{size}", r.device, grid, size, *shape, r, w, *tensors)


def _dtype(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")
