"""Hard-max attention with heads of size 2, readable: what the C++ of `cuda/hull/` computes.

A head returns the value of argmax_j q . k_j. In two dimensions that key is an extreme point of the
convex hull of all keys, so a cache keeps the hull instead of the keys: the upper envelope answers
queries with q.y > 0, the lower one those with q.y < 0. An envelope is concave, so the largest score
is where its edges turn from rising to falling in the direction of q, found by halving.

Exact: keys and queries are fp32 numbers, whose products are exact in fp64. Scores are compared as
the real numbers they are, not as rounded ones.

Ties: all keys with the largest score count. Their `mean` is what softmax tends to at temperature 0;
`first` and `latest` are the value of the first or last of these tokens. Keys that are equal share
one vertex, keys on an edge stay on it (they tie where q is normal to it), and q = 0 ties all.

Shapes: q, k `[..., T, 2]`, v `[..., T, P]`.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

TIES = ("mean", "first", "latest")
Point = tuple[float, float]
BASE = 64
"""Tokens of the smallest blocks of `prefill`, which are searched key by key."""


class Found(NamedTuple):
    """The keys with the largest score, by token counted from 0; int64 `[..., T]` each."""

    first: Tensor
    latest: Tensor
    members: Tensor
    """How many they are."""


def scores(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """q . k of fp32 numbers, `[...]` of q, k `[..., 2]`: the nearest fp64 number and what it lacks.

    Pairs compare, the first number first, as the real numbers do (two-sum, Knuth 1969).
    """
    a, b = (q.double() * k.double()).unbind(-1)
    high = a + b
    part = high - a
    return high, (a - (high - part)) + (b - part)


def tied(q: Tensor, k: Tensor, past: int = 0) -> Tensor:
    """Whether key j has the largest score of keys 0 .. past + t for query t: bool `[..., T, S]`.

    Compares every query with every key: q `[..., T, 2]`, k `[..., S, 2]` with S = past + T.
    """
    high, low = scores(q[..., :, None, :], k[..., None, :, :])
    length, keys = high.shape[-2:]
    unseen = ~torch.ones(length, keys, dtype=torch.bool, device=q.device).tril(past)
    high = high.masked_fill(unseen, -math.inf)
    is_best = high == high.amax(-1, keepdim=True)
    low = low.masked_fill(~is_best, -math.inf)
    return is_best & (low == low.amax(-1, keepdim=True))


def scan(q: Tensor, k: Tensor, past: int = 0) -> Found:
    """The causal hard-max by comparing every query with every key: the truth for the others."""
    best = tied(q, k, past)
    token = torch.arange(k.shape[-2], device=k.device)
    first = token.masked_fill(~best, k.shape[-2]).amin(-1)
    return Found(first, token.masked_fill(~best, -1).amax(-1), best.sum(-1))


def scan_values(q: Tensor, k: Tensor, v: Tensor, ties: str, past: int = 0) -> Tensor:
    """What those keys hold, `[..., T, P]`, by one of `TIES`; a mean is taken in fp64."""
    best = tied(q, k, past)
    if ties == "mean":
        share = best.double()
        return ((share @ v.double()) / share.sum(-1, keepdim=True)).to(v.dtype)
    found = scan(q, k, past)
    return take(v, found.first if ties == "first" else found.latest)


def take(v: Tensor, token: Tensor) -> Tensor:
    """The rows `token` `[..., T]` of v `[..., S, P]`."""
    return v.gather(-2, token[..., None].expand(*token.shape, v.shape[-1]))


# ---------------------------------------------------------------- the hull of keys that come


@dataclass
class Group:
    """Tokens whose keys share a score."""

    first: int
    latest: int
    members: int = 1

    def add(self, other: Group) -> None:
        self.first = min(self.first, other.first)
        self.latest = max(self.latest, other.latest)
        self.members += other.members

    def copy(self) -> Group:
        return Group(self.first, self.latest, self.members)


def compare(q: Point, a: Point, b: Point) -> float:
    """The sign of q . a - q . b, exact: `fsum` rounds only once, and never to another sign."""
    return math.fsum((q[0] * a[0], q[1] * a[1], -q[0] * b[0], -q[1] * b[1]))


def is_below(a: Point, b: Point, c: Point) -> bool:
    """Whether b lies strictly below the segment from a to c; their x rise strictly."""
    (ax, ay), (bx, by), (cx, cy) = a, b, c
    return math.fsum((ax * by, -ay * bx, bx * cy, -by * cx, cx * ay, -cy * ax)) > 0


@dataclass
class Envelope:
    """The upper envelope of points in order of x: a sorted list, which C++ keeps as a tree."""

    points: list[Point] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)

    def add(self, key: Point, group: Group) -> None:
        """Add a key. What falls below the envelope can never be found and is dropped."""
        i = bisect.bisect_left(self.points, (key[0], -math.inf))
        if i < len(self.points) and self.points[i][0] == key[0]:
            if key[1] < self.points[i][1]:
                return
            if key[1] == self.points[i][1]:
                self.groups[i].add(group)
                return
            self._drop(i)
        elif 0 < i < len(self.points) and is_below(self.points[i - 1], key, self.points[i]):
            return
        self.points.insert(i, key)
        self.groups.insert(i, group.copy())
        while i + 2 < len(self.points) and is_below(*self.points[i : i + 3]):
            self._drop(i + 1)
        while i >= 2 and is_below(*self.points[i - 2 : i + 1]):
            self._drop(i - 1)
            i -= 1

    def _drop(self, i: int) -> None:
        del self.points[i], self.groups[i]

    def best(self, q: Point) -> Group:
        """The keys with the largest score, for q.y > 0, by halving."""
        low, high = 0, len(self.points)
        while high - low > 1:
            middle = (low + high) // 2
            rises = compare(q, self.points[middle], self.points[middle - 1]) > 0
            low, high = (middle, high) if rises else (low, middle)
        found = self.groups[low].copy()
        for i in range(low + 1, len(self.points)):
            if compare(q, self.points[i], self.points[low]):
                break
            found.add(self.groups[i])
        return found


@dataclass
class HullCache:
    """The keys of one head. `add` and `query` take O(log n) in C++ (amortised; plus ties)."""

    upper: Envelope = field(default_factory=Envelope)
    lower: Envelope = field(default_factory=Envelope)
    level: dict[int, tuple[float, Group]] = field(default_factory=dict)
    """The largest sign * x, and who has it, for queries (sign, 0): those with q.y = 0."""
    tokens: int = 0

    def add(self, key: Point) -> None:
        """Add the key of the next token."""
        x, y = (float(c) + 0.0 for c in key)  # -0.0 is 0.0
        one = Group(self.tokens, self.tokens)
        self.upper.add((x, y), one)
        self.lower.add((x, -y), one)
        for sign in (-1, 0, 1):
            most, group = self.level.get(sign, (-math.inf, one))
            if sign * x > most:
                self.level[sign] = sign * x, one.copy()
            elif sign * x == most:
                group.add(one)
        self.tokens += 1

    def query(self, q: Point) -> Group:
        """The keys with the largest score. There must be a key."""
        if q[1] == 0:
            return self.level[(q[0] > 0) - (q[0] < 0)][1].copy()
        side = self.upper if q[1] > 0 else self.lower
        return side.best((q[0], abs(q[1])))


def stepwise(q: Tensor, k: Tensor) -> Found:
    """The causal hard-max of q, k `[T, 2]` by a `HullCache`, token by token."""
    cache = HullCache()
    found = []
    for query, key in zip(q.tolist(), k.tolist(), strict=True):
        cache.add(key)
        found.append(cache.query(query))
    return _found(found)


# ---------------------------------------------------------------- all tokens at once


def prefill(q: Tensor, k: Tensor) -> Found:
    """The causal hard-max of q, k `[T, 2]` by dyadic hulls over time.

    Token t sees the keys before it in its own block of `BASE`, one by one, and for each larger
    power of two the hull of the block to the left of its own, if its own is a right one. So it
    meets O(log T) hulls, and no hull has to grow in time. Here a hull is built anew and searched by
    halving, O(T log^2 T) in all; C++ merges hulls and walks sorted queries along them.
    """
    queries, keys = q.tolist(), k.tolist()
    length = len(keys)
    best: list[Group | None] = [None] * length
    for t in range(length):
        for j in range(t // BASE * BASE, t + 1):
            best[t] = _better(queries[t], keys, best[t], Group(j, j))
    for size in itertools.takewhile(lambda size: size < length, (BASE << i for i in range(40))):
        for middle in range(size, length, 2 * size):
            block = _hull_of(keys, middle - size, middle)
            for t in range(middle, min(middle + size, length)):
                best[t] = _better(queries[t], keys, best[t], block.query(queries[t]))
    return _found(group for group in best if group is not None)


def _hull_of(keys: list[Point], start: int, end: int) -> HullCache:
    block = HullCache(tokens=start)
    for key in keys[start:end]:
        block.add(key)
    return block


def _better(q: Point, keys: list[Point], one: Group | None, other: Group) -> Group:
    """The group with the larger score, or both as one."""
    if one is None:
        return other
    sign = compare(q, keys[one.first], keys[other.first])
    if not sign:
        one.add(other)
    return other if sign < 0 else one


def _found(groups: Iterator[Group] | list[Group]) -> Found:
    rows = torch.tensor([(g.first, g.latest, g.members) for g in groups], dtype=torch.int64)
    return Found(*rows.reshape(-1, 3).unbind(-1))


# ---------------------------------------------------------------- addresses


LOW_BITS = 12


def address_keys(address: Tensor) -> tuple[Tensor, Tensor]:
    """Two fp32 keys `[..., 2]` of addresses below 2^24, for which `address_queries` look.

    The key (2 j, -j^2) has the score i^2 - (i - j)^2 with the query (i, 1), the largest where
    j = i. As an fp32 number it is exact up to j = 4,096 alone; so the high and the low 12 bits have
    a key each, and among keys that tie in the first the second decides.
    """
    parts = address >> LOW_BITS, address & ((1 << LOW_BITS) - 1)
    high, low = (torch.stack((2 * part, -part * part), -1).float() for part in parts)
    return high, low


def address_queries(address: Tensor) -> tuple[Tensor, Tensor]:
    """Two fp32 queries `[..., 2]`."""
    parts = address >> LOW_BITS, address & ((1 << LOW_BITS) - 1)
    high, low = (torch.stack((part, torch.ones_like(part)), -1).float() for part in parts)
    return high, low


def scan_pairs(high_q: Tensor, low_q: Tensor, high_k: Tensor, low_k: Tensor) -> Found:
    """The best of all keys `[S, 2]` for queries `[T, 2]`: by the first score, then the second."""
    tokens = len(high_k)
    best = tied(high_q, high_k, past=tokens)
    high, low = scores(low_q[:, None], low_k[None])
    for part in (high, low):
        part = part.masked_fill(~best, -math.inf)
        best = best & (part == part.amax(-1, keepdim=True))
    token = torch.arange(tokens)
    first = token.masked_fill(~best, tokens).amin(-1)
    return Found(first, token.masked_fill(~best, -1).amax(-1), best.sum(-1))
