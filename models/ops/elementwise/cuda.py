"""The formulas of `cuda/elementwise/` on a GPU: how a launch goes over rows.

A thread has eight channels and goes down a span of rows. Sums over rows have two stages, a row of
partial sums for each span and then `elementwise_sums`, both in an order that the shape alone
decides: every run gives the same bits.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from models.ops.elementwise.cpu import bits_of
from models.ops.elementwise.kernels import DTYPES, MOST_FIELDS, MOST_MIXES, Pass
from models.ops.nvrtc import CudaLibrary

LANES, WARP = 8, 32  # of cuda/gpu/rows.h: channels and threads
MOST_ROW, MOST_HEAD = 1024 * LANES, WARP * LANES
"""Channels that a block, or a warp, can have a sum over."""
_FLAT_THREADS, _THREADS = 256, 128
_FEWEST, _MOST = 4, 64  # rows of a thread's span
_SPANS = 1024  # that a pass with sums is cut into, or more
_TOKENS = 32  # of a span of a token shift
_BESIDE = ("elementwise/gpu.h", "elementwise/lanes.h", "gpu/rows.h", "gpu/machine.h")
_NAMES = {
    "pointwise": ("gate", "squared_relu", "swiglu", "log_decay", "value_residual"),
    "shift": ("token_shift_mix", "dynamic_mix"),
    "layer_norms": ("layer_norm", "add_layer_norm"),
    "rms_norms": ("rms_norm", "add_rms_norm"),
    "heads": ("gated_head_norm", "bonus_head_norm", "delta_keys"),
}
_HEADERS = {
    "pointwise": ("pointwise.h",),
    "shift": ("shift.h",),
    "layer_norms": ("norms.h",),
    "rms_norms": ("norms.h",),
    "heads": ("heads.h", "norms.h"),
}


def _kernels(source: str, dtype: str) -> tuple[str, ...]:
    passes = [f"{name}{which}" for name in _NAMES[source] for which in ("", "_backward")]
    names = [f"{name}_{dtype}" for name in passes]
    if source.endswith("norms") and dtype != "float32":
        names += [f"{name}_{dtype}_float32" for name in passes]
    return (*names, *([f"rotate_{dtype}"] if source == "heads" else []))


libraries: dict[tuple[str, str], CudaLibrary] = {
    (source, dtype): CudaLibrary(
        f"elementwise/{source}.cu",
        (*(f"elementwise/{name}" for name in names), *_BESIDE, "common/elements.h"),
        _kernels(source, dtype),
        defined=f"OF_{dtype}",
    )
    for source, names in _HEADERS.items()
    for dtype in DTYPES.values()
}
"""By source and dtype, each compiled when it is first needed."""
library = CudaLibrary(
    "elementwise/sums.cu", ("gpu/machine.h", "common/elements.h"), ("elementwise_sums",)
)


class Plan(NamedTuple):
    """A launch of a pass, as `Plan` of `cuda/gpu/rows.h` has it."""

    grid: tuple[int, int]
    threads: int
    span: int
    lanes: int
    columns: int
    partials: int
    """Rows of partial sums."""


def fits(walk: str, size: int) -> bool:
    """Whether there are kernels for rows, or heads, of so many channels."""
    return {"rows": size <= MOST_ROW, "heads": size <= MOST_HEAD}.get(walk, True)


def run(one: Pass) -> None:
    """Launch a pass, and the second stage of its sums."""
    device = next(x.device for x in one.fields if isinstance(x, Tensor))
    sums = [row for total in one.totals for row in total.view(-1, _width(one)).unbind()]
    if 0 in one.sizes:
        for total in one.totals:
            total.zero_()
        return
    plan = plan_of(one.walk, one.sizes, bool(sums))
    partial = None
    if sums:
        shape = (plan.partials, len(sums), _width(one))
        partial = torch.empty(shape, dtype=torch.float32, device=device)
    fields = [*one.sizes, *(bits_of(x) if isinstance(x, float) else x for x in one.fields)]
    libraries[one.source, DTYPES[one.dtype]].launch(
        one.function,
        device,
        plan.grid,
        plan.threads,
        int(_is_wide(one)),
        plan.span,
        plan.lanes,
        plan.columns,
        len(sums),
        partial,
        *fields,
        *[0] * (MOST_FIELDS - len(fields)),
    )
    if partial is not None:
        grid = (-(-_width(one) // 32), len(sums))
        given = [*sums, *[None] * (MOST_MIXES - len(sums))]
        library.launch(
            "elementwise_sums", device, grid, 1024, plan.partials, _width(one), partial, *given
        )


@functools.lru_cache(1024)
def plan_of(walk: str, sizes: tuple[int, ...], summed: bool) -> Plan:
    """How a pass over so much is launched."""
    if walk == "flat":
        blocks = _over(_over(sizes[0], LANES), _FLAT_THREADS)
        return Plan((blocks, 1), _FLAT_THREADS, 1, 1, 1, blocks)
    if walk == "tokens":
        batch, length, width, _ = sizes
        threads, tiles = _tiles(width)
        blocks = batch * _over(length, _TOKENS)
        return Plan((blocks, tiles), threads, _TOKENS, 1, 1, blocks)
    if walk == "channels":
        rows, width = sizes
        threads, tiles = _tiles(width)
        span = _span(rows, 1, summed)
        return Plan((_over(rows, span), tiles), threads, span, 1, 1, _over(rows, span))
    # rows and heads: (rows, size), (rows, heads, size), or those of a rotation
    rows, count, size = sizes[0], sizes[-2] if walk == "heads" else 1, sizes[-1]
    if len(sizes) == 5:
        count, size = sizes[2:4]
    lanes, threads = _power(_over(size, LANES)), _THREADS
    if lanes > WARP:
        lanes = threads = _over(_over(size, LANES), WARP) * WARP
    columns = min(_power(count), threads // lanes)
    below = threads // (lanes * columns)
    span = _span(rows, below, summed)
    blocks = _over(rows, span * below)
    return Plan((blocks, _over(count, columns)), threads, span, lanes, columns, blocks * below)


def _span(rows: int, below: int, summed: bool) -> int:
    """Rows of a thread, where `below` threads of a block have rows of their own."""
    return max(_FEWEST, min(_MOST, rows // (below * _SPANS))) if summed else _FEWEST


def _tiles(width: int) -> tuple[int, int]:
    """Threads of a block, and blocks, side by side over so many channels."""
    vectors = _over(width, LANES)
    threads = min(_THREADS, _over(vectors, WARP) * WARP)
    return threads, _over(vectors, threads)


def _width(one: Pass) -> int:
    """Channels that sums have."""
    if one.walk == "heads":
        return one.sizes[-1] * one.sizes[-2]
    return one.sizes[2] if one.walk == "tokens" else one.sizes[-1]


def _is_wide(one: Pass) -> bool:
    """Whether vectors are whole and aligned."""
    counted = {"tokens": one.sizes[2:3], "heads": one.sizes[len(one.sizes) // 2 + 1 :]}
    sizes = counted.get(one.walk, one.sizes[-1:])
    if any(size % LANES for size in sizes):
        return False
    return all(x.data_ptr() % 16 == 0 for x in one.fields if isinstance(x, Tensor))


def _over(amount: int, by: int) -> int:
    return -(-amount // by)


def _power(least: int) -> int:
    """The smallest power of two that is not below."""
    return 1 << max(0, least - 1).bit_length()
