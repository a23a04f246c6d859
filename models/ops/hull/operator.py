"""Hard-max attention as an operator with a cache: keys of length 1, or anywhere in the plane.

In C++ a token costs O(log n) per head. Where that cannot be built, or on a GPU, all keys are
searched: the same result at the cost of attention.
"""

from __future__ import annotations

import functools
import logging
import math
from typing import Any

import torch
from torch import Tensor

from models.ops.backends import why_not
from models.ops.custom_op import custom_op
from models.ops.hull import circle, cpu, reference

ALL = 0
"""In place of a number of neighbours: all that share the largest score."""
ROWS = 64
"""Queries that the search of all keys takes at a time."""
Cache = dict[str, Any]
"""A tree of named tensors, part of a model's state."""
_log = logging.getLogger("crossover.hull")


def backend(device: torch.device) -> str:
    """The back end on this device: `cpu` if it can be built, else `reference`, said once."""
    if device.type == "meta":  # nothing is computed
        return "cpu"
    if device.type != "cpu":
        _notice(f"{device.type}: no kernels for this device")
    elif problem := why_not("hull", "cpu"):
        _notice(f"cpu: {problem.splitlines()[0]}")
    else:
        return "cpu"
    return "reference"


def hard_attention(
    q: Tensor, k: Tensor, v: Tensor, cache: Cache | None, most: int = ALL, scale: float = 1.0
) -> tuple[Tensor, Cache | None]:
    """The mean of v over the largest q . k / |k|, causal; and the cache with these keys.

    q, k `[B, H, T, 2]`, v `[B, H, T, P]`; returns `[B, H, T, P]`. Directions are fractions of a
    turn (`models.ops.hull.circle`), so comparisons are exact. With `most`, a softmax of
    scale |q| cos(angle between) over so many nearest angles. No gradient flows.
    """
    with torch.no_grad():
        sharpness = None if most == ALL else scale * torch.linalg.vector_norm(q, dim=-1).float()
        asked, keys = circle.angles(q.nan_to_num()), circle.angles(k.nan_to_num())
        y, cache = _attend(asked, keys, v.detach(), cache, most, sharpness)
        return _unless_bad(y, q, k), cache


def hard_attention_in_the_plane(
    q: Tensor, k: Tensor, v: Tensor, cache: Cache | None
) -> tuple[Tensor, Cache | None]:
    """The mean of v over the largest q . k of fp32 numbers, exact; otherwise as above."""
    with torch.no_grad():
        asked, keys = (x.detach().float().nan_to_num() for x in (q, k))
        y, cache = _attend(asked, keys, v.detach(), cache, ALL, None)
        return _unless_bad(y, q, k), cache


def _unless_bad(y: Tensor, q: Tensor, k: Tensor) -> Tensor:
    """y; NaN where a query or a key is not finite, as a softmax would be, so that it shows."""
    return y.masked_fill(~(q.isfinite().all() & k.isfinite().all()), math.nan)


def init_cache(
    heads: tuple[int, ...], width: int, capacity: int, plane: bool, device: torch.device
) -> Cache:
    """A cache without keys, with room for `capacity` tokens; `heads` is [B, H], `width` P."""
    state: Cache = {"tokens": torch.tensor(0, device="cpu")}  # reading it never waits for a GPU
    if backend(device) == "cpu":
        size, rows = _arena_bytes(capacity, plane), cpu.SUMS + capacity
        state["arena"] = torch.zeros(*heads, size, dtype=torch.uint8, device=device)
        state["sums"] = torch.zeros(*heads, rows, width, dtype=torch.float64, device=device)
        return state
    shape = (*heads, 0, 2) if plane else (*heads, 0)
    dtype = torch.float32 if plane else torch.int32
    state["keys"] = torch.zeros(shape, dtype=dtype, device=device)
    state["values"] = torch.zeros(*heads, 0, width, dtype=torch.float32, device=device)
    return state


def hull_flops(q: Any, k: Any, v: Any, arena: Any, sums: Any, past: int, *_: Any, **__: Any) -> int:
    """Operations of the attention whose result this is: a score and a share for every pair."""
    batch, heads, length = q[:3]
    return 2 * batch * heads * (2 + v[-1]) * length * (past + length)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, cache: Cache | None, most: int, sharpness: Tensor | None
) -> tuple[Tensor, Cache | None]:
    length, plane = v.shape[2], q.dim() == 4
    fresh = cache is None
    if cache is None:
        cache = init_cache(tuple(v.shape[:2]), v.shape[3], length, plane, v.device)
    past = int(cache["tokens"])
    if "arena" not in cache:
        keys = torch.cat((cache["keys"], k), 2)
        values = torch.cat((cache["values"], v.float()), 2)
        y = _search(q, keys, values, past, most, sharpness).to(v.dtype)
        return y, None if fresh else _after(cache, past + length, keys=keys, values=values)
    if fresh and plane:
        return _prefill(q, k, v), None
    arena, sums = _grown(cache, past, past + length, plane)
    y = _step(q, k, v, arena, sums, past, most, sharpness)
    return y, None if fresh else _after(cache, past + length, arena=arena, sums=sums)


def _after(cache: Cache, tokens: int, **leaves: Tensor) -> Cache:
    return {**cache, "tokens": torch.tensor(tokens, device="cpu"), **leaves}


def _arena_bytes(tokens: int, plane: bool) -> int:
    """Room that so many keys can never fill.

    A node is new only where one of 32 entries was halved, so there is one for every 15 keys, inner
    nodes included; beside them one a level, and what one more key may ask for. In the plane there
    are two envelopes.
    """
    nodes = tokens // 15 + 4 + tokens.bit_length() // 2
    return cpu.LINE + cpu.NODE_BYTES * nodes * (2 if plane else 1)


def _grown(cache: Cache, past: int, needed: int, plane: bool) -> tuple[Tensor, Tensor]:
    """Arena and sums with room for `needed` tokens; twice what they had, where they had not."""
    arena, sums = cache["arena"], cache["sums"]
    room = sums.shape[-2] - cpu.SUMS
    if needed <= room:
        return arena, sums
    room = max(needed, 2 * room, ROWS)
    return (
        cpu.longer(arena, _arena_bytes(room, plane), -1),
        cpu.longer(sums, room + cpu.SUMS, -2),
    )


def _step_in_cpp(
    q: Tensor, k: Tensor, v: Tensor, arena: Tensor, sums: Tensor, past: int, most: int,
    sharpness: Tensor | None,
) -> Tensor:  # fmt: skip
    if q.dim() == 4:
        _, mean = cpu.Hulls(arena, sums, grows=False).step(past, k, q, v)
    else:
        circles = cpu.Circles(arena, sums, grows=False)
        _, mean = circles.step(past, k, q, v, most, sharpness)
    assert mean is not None
    return mean.to(v.dtype)


def _prefill_in_cpp(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    _, mean = cpu.prefill(q, k, v)
    assert mean is not None
    return mean.to(v.dtype)


def _search(
    q: Tensor, k: Tensor, v: Tensor, past: int, most: int, sharpness: Tensor | None
) -> Tensor:
    """By looking at all keys, some queries at a time: the result of the C++, fp64."""
    parts = []
    for start in range(0, q.shape[2], ROWS):
        end = min(start + ROWS, q.shape[2])
        rows, seen = q[:, :, start:end], past + end
        keys, values = k[:, :, :seen], v[:, :, :seen].double()
        if most != ALL:
            assert sharpness is not None
            sharp = sharpness[:, :, start:end]
            parts.append(circle.scan_softmax(rows, keys, values, sharp, past + start, most))
            continue
        tied = reference.tied if q.dim() == 4 else circle.tied
        share = tied(rows, keys, past + start).double()
        parts.append(share @ values / share.sum(-1, keepdim=True))
    return torch.cat(parts, 2)


@functools.cache
def _notice(reason: str) -> None:
    _log.warning("hull: every query is compared with every key, which is slower (%s)", reason)


_step = custom_op(
    "hull_step",
    "(Tensor q, Tensor k, Tensor v, Tensor(a!) arena, Tensor(b!) sums, int past, int most,"
    " Tensor? sharpness) -> Tensor",
    _step_in_cpp,
    lambda q, k, v, *_: torch.empty_like(v),
    flops=hull_flops,
)
_prefill = custom_op(
    "hull_prefill",
    "(Tensor q, Tensor k, Tensor v) -> Tensor",
    _prefill_in_cpp,
    lambda q, k, v: torch.empty_like(v),
    flops=lambda q, k, v, **_: hull_flops(q, k, v, None, None, 0),
)
