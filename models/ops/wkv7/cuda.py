"""The CUDA kernels of WKV-7, and how a sequence is cut into segments for them.

Those of `cuda/wkv7/gpu.cu` work on tiles, with tensor cores; what they cannot do is done token by
token (`models.ops.wkv7.steps`).
"""

from __future__ import annotations

import functools
import logging
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from core.errors import UserError
from models.ops.cpu_library import allocate_like
from models.ops.nvrtc import CudaLibrary
from models.ops.wkv7 import steps
from models.ops.wkv7.reference import CHUNK

_log = logging.getLogger("crossover.wkv")

SIZES = tuple(range(16, steps.WIDTHS[-1] + 1, 16))
"""Head sizes. Others than `steps.WIDTHS` are filled up with zeros to the next of them."""

_DTYPES = ("float32", "bfloat16", "float16")
tiles = CudaLibrary(
    "wkv7/gpu.cu",
    (
        "wkv7/launch_map.h",
        "wkv7/backward.h",
        "wkv7/forward.h",
        "wkv7/products.h",
        "wkv7/chunk.h",
        "wkv7/warp_mma.h",
        "wkv7/warp.h",
        "gpu/pair.h",
        "gpu/machine.h",
        "common/elements.h",
    ),
    (
        *(f"wkv7_forward_{dtype}" for dtype in _DTYPES),
        *(f"wkv7_backward_{dtype}" for dtype in _DTYPES),
        "wkv7_join",
    ),
    oldest=(8, 0),  # for bf16 on tensor cores
)


class _Library:
    """What of the kernels a GPU can run."""

    def load(self) -> None:
        """Make sure that some can on the current device. Raises `BuildError`."""
        is_old = torch.cuda.is_available() and torch.cuda.get_device_capability() < tiles.oldest
        (steps.libraries[steps.WIDTHS[0]] if is_old else tiles).load()


library = _Library()


class _TooLittle(Exception):
    """A block would need more shared memory than the GPU has."""


class _Kernel(NamedTuple):
    """Geometry of a block: threads, blocks that a multiprocessor has registers for, bytes of shared
    memory of each."""

    threads: int
    resident: int
    shared: int


# Of cuda/wkv7/gpu.cu, by the width of a tile's cells there: bf16 for itself, else fp32.
_FORWARD = {2: _Kernel(128, 4, 48656), 4: _Kernel(128, 2, 83472)}
_BACKWARD = {2: _Kernel(256, 2, 88720), 4: _Kernel(256, 1, 160400)}
_JOIN_THREADS, _JOIN_ROWS = 256, 16
_BUSY = 2  # blocks that keep a multiprocessor busy
_RESERVED = 1024  # bytes of shared memory that CUDA takes of each block
_LEAST_SPAN = 8 * CHUNK  # tokens of a segment


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
    """Compute `reference.wkv7_forward`; the checkpoints are empty unless `save`."""
    size = r.shape[-1]
    tensors = [_ready(x) for x in (r, w, k, v, a, b)]
    state = _ready(state, rows=True)
    if steps.are_needed(r.device, size, tiles):
        y, out, checkpoints = steps.forward(tensors, state, save)
        return _cut(y, size), _cut(out, size, rows=True), _cut(checkpoints, size, rows=True)
    grid = _Grid.of(r, _FORWARD)
    batch, length, heads, width = tensors[0].shape
    chunks = -(-length // CHUNK) if save else 0
    checkpoints = state.new_empty(batch, chunks, heads, width, width)
    y, out = allocate_like(tensors[0]), allocate_like(state)
    starts = state
    if grid.segments > 1:
        summaries = grid.summaries(state)
        grid.run("wkv7_forward", tensors, None, None, summaries, None, segments=-1)
        starts = grid.join(state, summaries, backwards=False)
    grid.run("wkv7_forward", tensors, starts, y, out, checkpoints if save else None)
    return _cut(y, size), _cut(out, size, rows=True), _cut(checkpoints, size, rows=True)


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
    """Compute `reference.wkv7_backward` from the checkpoints of `wkv7_forward`.

    Where a GPU has too little shared memory it goes token by token, after a notice: in fp32 and
    fp16, consumer models.
    """
    size, grid = r.shape[-1], None
    tensors = [_ready(x) for x in (r, w, k, v, a, b)]
    checkpoints, grad_state = (_ready(x, rows=True) for x in (checkpoints, grad_state))
    grad_y = _ready(grad_y.to(r.dtype))
    if not steps.are_needed(r.device, size, tiles):
        try:
            grid = _Grid.of(r, _BACKWARD)
        except _TooLittle as error:
            _notice(r.dtype, str(error))
    if grid is None:
        *of_tensors, before = steps.backward(tensors, checkpoints, grad_state, grad_y)
        gr, gw, gk, gv, ga, gb = (_cut(x, size) for x in of_tensors)
        return gr, gw, gk, gv, ga, gb, _cut(before, size, rows=True)
    gr, gw, gk, gv, ga, gb = (allocate_like(x) for x in tensors)
    before = allocate_like(grad_state)
    ends = grad_state
    if grid.segments > 1:
        summaries = grid.summaries(grad_state)
        nothing = (None,) * 6
        grid.run("wkv7_backward", tensors, None, None, grad_y, *nothing, summaries, segments=-1)
        ends = grid.join(grad_state, summaries, backwards=True)
    grads = (gr, gw, gk, gv, ga, gb)
    grid.run("wkv7_backward", tensors, checkpoints, ends, grad_y, *grads, before)
    gr, gw, gk, gv, ga, gb = (_cut(x, size) for x in grads)
    return gr, gw, gk, gv, ga, gb, _cut(before, size, rows=True)


class _Machine(NamedTuple):
    """A GPU: its multiprocessors, and bytes of shared memory that each has and a block may have."""

    multiprocessors: int
    shared: int
    most_shared: int

    @classmethod
    def of(cls, device: torch.device) -> _Machine:
        # PyTorch's stubs do not know all of them.
        properties: Any = torch.cuda.get_device_properties(device)
        return cls(
            properties.multi_processor_count,
            properties.shared_memory_per_multiprocessor,
            properties.shared_memory_per_block_optin,
        )

    def resident(self, kernel: _Kernel) -> int:
        """Blocks of a kernel that a multiprocessor runs at a time."""
        return max(1, min(kernel.resident, self.shared // (kernel.shared + _RESERVED)))


class _Grid(NamedTuple):
    """Heads of all sequences times segments of `span` tokens, for one kind of kernel."""

    shape: tuple[int, int, int]
    span: int
    kernel: _Kernel
    like: Tensor

    @classmethod
    def of(cls, like: Tensor, kernels: dict[int, _Kernel]) -> _Grid:
        """Split time into segments only when batch x heads fills less than half the SMs.

        A segment is gone through three times, so with more heads than that segments do not pay.
        """
        batch, length, heads, _ = like.shape
        kernel = kernels[2 if like.dtype == torch.bfloat16 else 4]
        machine = _Machine.of(like.device)
        if kernel.shared > machine.most_shared:
            raise _TooLittle(
                f"{kernel.shared} bytes for a block, this GPU has {machine.most_shared}"
            )
        segments = 1
        if 2 * batch * heads <= machine.multiprocessors:
            blocks = machine.multiprocessors * min(_BUSY, machine.resident(kernel))
            segments = max(min(blocks // (batch * heads), length // _LEAST_SPAN), 1)
        span = -(-length // segments)
        return cls((batch, length, heads), -(-span // CHUNK) * CHUNK, kernel, like)

    @property
    def segments(self) -> int:
        return -(-self.shape[1] // self.span)

    @property
    def columns(self) -> int:
        return self.shape[0] * self.shape[2]

    def summaries(self, state: Tensor) -> Tensor:
        """For what segments add and how they pass on: `[2, B * H, segments, N, N]`."""
        return state.new_empty(2, self.columns, self.segments, *state.shape[-2:])

    def run(
        self,
        name: str,
        inputs: list[Tensor],
        *rest: Tensor | None,
        segments: int = 0,
    ) -> None:
        """Launch; with `segments=-1` to summarise all but one of them."""
        dtype = str(self.like.dtype).removeprefix("torch.")
        tiles.launch(
            f"{name}_{dtype}",
            self.like.device,
            (self.columns, self.segments + segments, 2 if segments else 1),
            self.kernel.threads,
            *self.shape,
            self.span,
            *inputs,
            *rest,
            shared_bytes=self.kernel.shared,
        )

    def join(self, given: Tensor, summaries: Tensor, backwards: bool) -> Tensor:
        """What every segment starts from, `[B * H, segments, N, N]`."""
        starts = allocate_like(summaries[0])
        size = given.shape[-1]
        tiles.launch(
            "wkv7_join",
            given.device,
            (self.columns, size // _JOIN_ROWS),
            _JOIN_THREADS,
            *self.shape,
            self.span,
            given,
            summaries,
            starts,
            int(backwards),
        )
        return starts


@functools.cache
def _notice(dtype: torch.dtype, reason: str) -> None:
    """Say once that the slow path is taken."""
    _log.warning(
        "wkv7: the backward pass in %s goes token by token, which is slower (shared memory: %s)",
        dtype,
        reason,
    )


def _ready(x: Tensor, rows: bool = False) -> Tensor:
    """Contiguous, aligned, and filled up to the kernels' head size, its rows too if asked."""
    size = x.shape[-1]
    if size > SIZES[-1]:
        raise UserError(
            f"wkv7: the CUDA kernels are for head sizes up to {SIZES[-1]}, not {size}: "
            "use backend='reference'"
        )
    missing = next(width for width in steps.WIDTHS if width >= size) - size
    if missing:
        x = F.pad(x, (0, missing, 0, missing if rows else 0))
    x = x.contiguous()
    return x if x.data_ptr() % 16 == 0 else x.clone()


def _cut(x: Tensor, size: int, rows: bool = False) -> Tensor:
    """The reverse of `_ready`."""
    if x.shape[-1] == size:
        return x
    return (x[..., :size, :size] if rows else x[..., :size]).contiguous()
