"""The C++ of `cuda/hull/`, and the arena that it keeps the hulls of many heads in."""

from __future__ import annotations

import functools
from ctypes import c_int, c_int64, c_void_p
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.ops.cpu_library import CpuLibrary
from models.ops.hull.reference import LOW_BITS, Found

library = CpuLibrary(
    "hull",
    ["hull/cpu.cpp"],
    [
        f"hull/{name}.h"
        for name in ("address", "cache", "circle", "dyadic", "envelope", "exact", "scan", "tree")
    ],
    {},
)
LINE = 128
"""Bytes of an arena's header; what an arena is a multiple of."""
NODE_BYTES = 7 * LINE
LEAST_BYTES = LINE + 4 * NODE_BYTES
"""The size of an arena that begins: a few nodes."""
SUMS = 3
"""Rows of sums before those of tokens: of all keys, the leftmost and the rightmost ones."""
_DONE, _FULL, _NOT_FINITE = range(3)
_ARGUMENTS: dict[str, list[Any]] = {
    "hull_step": [*[c_int64] * 4, *[c_void_p] * 4, *[c_int64] * 2, *[c_void_p] * 3, c_int],
    "hull_query": [*[c_int64] * 3, *[c_void_p] * 3, *[c_int64] * 2, *[c_void_p] * 2, c_int],
    "hull_prefill": [*[c_int64] * 2, *[c_void_p] * 3, c_int64, *[c_void_p] * 2, c_int],
    "hull_circle_step": [
        *[c_int64] * 4,
        *[c_void_p] * 4,
        *[c_int64] * 2,
        *[c_void_p] * 3,
        c_int64,
        c_void_p,
        c_int,
    ],
    "hull_circle_query": [
        *[c_int64] * 3,
        *[c_void_p] * 3,
        *[c_int64] * 2,
        *[c_void_p] * 2,
        c_int64,
        c_void_p,
        c_int,
    ],
    "hull_scan": [*[c_int64] * 3, *[c_void_p] * 3],
    "hull_sizes": [c_int64, c_int64, c_void_p, c_void_p],
    "hull_add_addresses": [*[c_int64] * 3, c_void_p, c_void_p],
    "hull_find_addresses": [c_int64, *[c_void_p] * 3],
}


@functools.cache
def _function(name: str) -> Any:
    function = getattr(library.load(), name)
    function.argtypes, function.restype = _ARGUMENTS[name], c_int64
    return function


def _call(name: str, *arguments: Any) -> int:
    """Call a function with tensors as addresses. Raises `ValueError` for what is not finite."""
    status = _function(name)(*(a.data_ptr() if isinstance(a, Tensor) else a for a in arguments))
    if status == _NOT_FINITE:
        raise ValueError("hull: a key or a query is not finite")
    return int(status)


def _points(x: Tensor) -> Tensor:
    return x.to(torch.float32).contiguous()


def _found(shape: Any, device: Any = None) -> Tensor:
    return torch.empty(*shape, 3, dtype=torch.int32, device=device)


def _as_found(rows: Tensor) -> Found:
    return Found(*rows.long().unbind(-1))


@dataclass
class Hulls:
    """The hulls of heads `[...]`, as tensors: a copy of them is a copy of the caches.

    `sums` is there where means are asked for.
    """

    arena: Tensor
    """uint8 `[..., bytes]`, zeros where nothing has come."""
    sums: Tensor | None = None
    """fp64 `[..., 3 + capacity, P]`."""
    grows: bool = True
    """Whether new tensors may take the place of those without room; otherwise they must have it."""

    @property
    def heads(self) -> int:
        return self.arena[..., 0].numel()

    def grow(self) -> None:
        """Twice the room, with what is there."""
        self.arena = longer(self.arena, 2 * self.arena.shape[-1], -1)

    def reserve(self, tokens: int) -> None:
        """Room in the sums for so many tokens."""
        if self.grows and self.sums is not None and self.sums.shape[-2] < tokens + SUMS:
            self.sums = longer(self.sums, max(tokens, 2 * self.sums.shape[-2]) + SUMS, -2)

    def step(
        self, past: int, k: Tensor, q: Tensor | None = None, v: Tensor | None = None
    ) -> tuple[Found | None, Tensor | None]:
        """Add k `[..., T, 2]` after `past` tokens, and answer q causally: token t sees its own key.

        With `sums`, v `[..., T, P]` is added up too; the second result is the mean `[..., T, P]` of
        the best, fp64. Raises `ValueError` for what is not finite, `RuntimeError` if there are
        other than `past` keys.
        """
        return self._step("hull_step", past, _points(k), None if q is None else _points(q), v)

    def query(self, q: Tensor) -> tuple[Found, Tensor | None]:
        """Answer q `[..., T, 2]` from all keys, as `step` does. There must be a key."""
        return self._query("hull_query", q.shape[:-1], _points(q))

    def _step(
        self, name: str, past: int, k: Tensor, q: Tensor | None, v: Tensor | None, *more: Any
    ) -> tuple[Found | None, Tensor | None]:
        heads = self.arena.shape[:-1]
        length = k.shape[len(heads)]
        if bool((_tokens_in(self.arena) != past).any()):
            raise RuntimeError(
                f"hull: caches do not hold {past:,} keys; to continue one twice, clone it first"
            )
        self.reserve(past + length)
        found = None if q is None else _found((*heads, length))
        mean, width, rows = None, 0, 0
        if self.sums is not None:
            assert v is not None
            v, width, rows = _points(v), v.shape[-1], self.sums.shape[-2] - SUMS
            mean = None if q is None else v.new_empty(v.shape, dtype=torch.float64)
        while True:
            status = _call(
                name, self.heads, length, past, self.arena.shape[-1], self.arena, k, q, found,
                width, rows, self.sums, v, mean, *more, torch.get_num_threads(),
            )  # fmt: skip
            if status == _DONE:
                return None if found is None else _as_found(found), mean
            if not self.grows:
                raise RuntimeError("hull: an arena is too small for its keys")
            self.grow()

    def _query(
        self, name: str, shape: tuple[int, ...], q: Tensor, *more: Any
    ) -> tuple[Found, Tensor | None]:
        found, mean, width, rows = _found(shape), None, 0, 0
        if self.sums is not None:
            width, rows = self.sums.shape[-1], self.sums.shape[-2] - SUMS
            mean = q.new_empty(*shape, width, dtype=torch.float64)
        _call(
            name, self.heads, shape[-1], self.arena.shape[-1], self.arena, q, found, width, rows,
            self.sums, mean, *more, torch.get_num_threads(),
        )  # fmt: skip
        return _as_found(found), mean

    def sizes(self) -> Tensor:
        """Vertices of the upper and the lower envelope, int64 `[..., 2]`."""
        sizes = torch.empty(*self.arena.shape[:-1], 2, dtype=torch.int64)
        _call("hull_sizes", self.heads, self.arena.shape[-1], self.arena, sizes)
        return sizes


class Circles(Hulls):
    """Caches of keys that are angles, int32 (`models.ops.hull.circle`), with the same calls.

    With `scale` fp32 `[..., T]` the mean is a softmax of scale cos(angle between) over the `most`
    nearest angles.
    """

    def step(
        self,
        past: int,
        k: Tensor,
        q: Tensor | None = None,
        v: Tensor | None = None,
        most: int = 0,
        scale: Tensor | None = None,
    ) -> tuple[Found | None, Tensor | None]:
        """Add k `[..., T]` and answer q `[..., T]`."""
        q = None if q is None else q.contiguous()
        more = most, None if scale is None else _points(scale)
        return self._step("hull_circle_step", past, k.contiguous(), q, v, *more)

    def query(
        self, q: Tensor, most: int = 0, scale: Tensor | None = None
    ) -> tuple[Found, Tensor | None]:
        """Answer q `[..., T]`."""
        more = most, None if scale is None else _points(scale)
        return self._query("hull_circle_query", q.shape, q.contiguous(), *more)


def empty(heads: tuple[int, ...], width: int | None = None, capacity: int = 0) -> Hulls:
    """Hulls without keys; with a width P, they can answer with the mean of values `[P]`."""
    return Hulls(*_room(heads, width, capacity))


def empty_circles(heads: tuple[int, ...], width: int | None = None, capacity: int = 0) -> Circles:
    """Circles without keys."""
    return Circles(*_room(heads, width, capacity))


def _room(heads: tuple[int, ...], width: int | None, capacity: int) -> tuple[Tensor, Tensor | None]:
    arena = torch.zeros(*heads, LEAST_BYTES, dtype=torch.uint8)
    if width is None:
        return arena, None
    return arena, torch.zeros(*heads, SUMS + capacity, width, dtype=torch.float64)


def prefill(q: Tensor, k: Tensor, v: Tensor | None = None) -> tuple[Found, Tensor | None]:
    """The causal hard-max of q, k `[..., T, 2]` for all tokens at once, by dyadic hulls.

    With v `[..., T, P]` also the mean of the best, fp64. Raises `ValueError` for what is not
    finite.
    """
    q, k = _points(q), _points(k)
    v = None if v is None else _points(v)
    found, width = _found(q.shape[:-1]), 0 if v is None else v.shape[-1]
    mean = None if v is None else v.new_empty(v.shape, dtype=torch.float64)
    length = q.shape[-2]
    heads = q.numel() // (2 * length) if length else 0
    threads = torch.get_num_threads()
    _call("hull_prefill", heads, length, k, q, found, width, v, mean, threads)
    return _as_found(found), mean


def scan(q: Tensor, k: Tensor, causal: bool = False) -> Tensor:
    """The first of the keys k `[S, 2]` with the largest fp32 score, int32 `[T]` for q `[T, 2]`.

    What a hull is timed against: all keys, 64 at a time, on one thread. Scores are rounded.
    """
    best = torch.empty(len(q), dtype=torch.int32)
    sides = _points(k.T)  # [2, S]
    _call("hull_scan", len(q), len(k), int(causal), sides, _points(q), best)
    return best


class Addresses:
    """A cache of pairs of keys for addresses below 2^24 (`reference.address_keys`)."""

    def __init__(self) -> None:
        self.arena = torch.zeros(LEAST_BYTES, dtype=torch.uint8)
        self.tokens = 0

    def add(self, addresses: Tensor) -> None:
        """Add the keys of addresses `[T]`. Raises `ValueError` outside 0 .. 2^24 - 1."""
        addresses = _checked(addresses)
        while _call(
            "hull_add_addresses", len(addresses), self.tokens, self.arena.numel(), self.arena,
            addresses,
        ) == _FULL:  # fmt: skip
            self.arena = longer(self.arena, 2 * self.arena.numel(), -1)
        self.tokens += len(addresses)

    def find(self, addresses: Tensor) -> Found:
        """The tokens at addresses `[T]`, or at those nearest by high, then by low bits."""
        addresses = _checked(addresses)
        if not self.tokens:
            raise ValueError("hull: nothing was stored yet")
        found = _found(addresses.shape)
        _call("hull_find_addresses", len(addresses), self.arena, addresses, found)
        return _as_found(found)


def _tokens_in(arena: Tensor) -> Tensor:
    """Keys that arenas `[..., bytes]` were given so far, int32 `[...]`: a field of the header."""
    return arena.view(torch.int32)[..., 19]


def _checked(addresses: Tensor) -> Tensor:
    if addresses.numel() and not 0 <= int(addresses.min()) <= int(addresses.max()) < 4**LOW_BITS:
        raise ValueError(f"hull: addresses must lie between 0 and {4**LOW_BITS - 1:,}")
    return addresses.to(torch.int32).contiguous()


def longer(x: Tensor, size: int, dim: int) -> Tensor:
    """x with so much room along `dim`, zeros behind what is there."""
    shape = list(x.shape)
    shape[dim] = size
    longer = x.new_zeros(shape)
    longer.narrow(dim, 0, x.shape[dim]).copy_(x)
    return longer
