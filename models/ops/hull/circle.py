"""Keys of length 1 as angles, readable: hard-max attention is then a search for a neighbour.

For keys on the unit circle q . k = |q| cos(angle between), so the best key is the one with the
nearest angle, a predecessor or a successor in a sorted set. As fp32 points not all of them are on
the circle, and beyond some ten thousand most are inside the hull of the others; as fractions of a
turn, integers, all can be found. The k nearest are the neighbours' neighbours, so a softmax over
the k largest scores costs O(log n + k); what it leaves out weighs at most
(n - k) exp(-scale (s_1 - s_{k+1})) of the first, s the cosines in falling order.

Ties as in `reference`: equal angles, and the two angles at one distance on either side.
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.ops.hull.reference import Found, Group

TURN = 1 << 30
"""A whole turn: finer than what an fp32 direction can tell apart."""


def angles(x: Tensor) -> Tensor:
    """Directions of x `[..., 2]` as fractions of a turn, int32 `[...]` in 0 .. TURN - 1."""
    x = x.double()
    turns = torch.atan2(x[..., 1], x[..., 0]) * (TURN / (2 * math.pi))
    return (turns.round().long() % TURN).int()


def distances(q: Tensor, k: Tensor) -> Tensor:
    """How far angles q `[...]` and k `[...]` are apart, int64, at most half a turn."""
    gap = (q.long() - k.long()) % TURN
    return torch.minimum(gap, TURN - gap)


def tied(q: Tensor, k: Tensor, past: int = 0) -> Tensor:
    """Whether key j is the nearest of keys 0 .. past + t to query t: bool `[..., T, S]`."""
    gap = _causal(distances(q[..., :, None], k[..., None, :]), past)
    return gap == gap.amin(-1, keepdim=True)


def scan(q: Tensor, k: Tensor, past: int = 0) -> Found:
    """The causal hard-max of angles q `[..., T]`, k `[..., S]` by comparing all with all."""
    best = tied(q, k, past)
    token = torch.arange(k.shape[-1], device=k.device)
    first = token.masked_fill(~best, k.shape[-1]).amin(-1)
    return Found(first, token.masked_fill(~best, -1).amax(-1), best.sum(-1))


def scan_softmax(
    q: Tensor, k: Tensor, v: Tensor, scale: Tensor, past: int = 0, most: int | None = None
) -> Tensor:
    """softmax(scale cos(angle between)) v, fp64 `[..., T, P]`; scale `[..., T]`.

    Over all keys, or those at the `most` nearest angles, in the order of `CircleCache.nearest`.
    """
    q, k = q.long()[..., :, None], k.long()[..., None, :]
    behind = (q - k) % TURN
    gap = torch.minimum(behind, TURN - behind)
    score = scale.double()[..., None] * (gap.double() * (2 * math.pi / TURN)).cos()
    if most is not None:
        order = _causal(2 * gap + (TURN - behind < behind), past, 2 * TURN)
        ranked = order.sort(-1).values
        rank = (ranked.diff(dim=-1) != 0).cumsum(-1)  # of distinct angles; the first has 0
        rank = torch.nn.functional.pad(rank, (1, 0))
        last = ranked.masked_fill(rank >= most, -1).amax(-1, keepdim=True)
        score = score.masked_fill(order > last, -math.inf)
    return _causal(score, past, -math.inf).softmax(-1) @ v.double()


def _causal(x: Tensor, past: int, beyond: float = TURN) -> Tensor:
    length, keys = x.shape[-2:]
    unseen = ~torch.ones(length, keys, dtype=torch.bool, device=x.device).tril(past)
    return x.masked_fill(unseen, beyond)


@dataclass
class CircleCache:
    """The angles of one head in order: a sorted list, which C++ keeps as a tree."""

    angles: list[int] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    tokens: int = 0

    def add(self, angle: int) -> None:
        """Add the angle of the next token."""
        i = bisect.bisect_left(self.angles, angle)
        if i < len(self.angles) and self.angles[i] == angle:
            self.groups[i].add(Group(self.tokens, self.tokens))
        else:
            self.angles.insert(i, angle)
            self.groups.insert(i, Group(self.tokens, self.tokens))
        self.tokens += 1

    def nearest(self, asked: int, most: int) -> list[tuple[int, Group]]:
        """Distances and tokens of up to `most` angles, from the nearest on.

        Of two at one distance the one that is met turning backwards comes first.
        """
        found: list[tuple[int, Group]] = []
        ahead = bisect.bisect_right(self.angles, asked)
        back = ahead - 1
        while len(found) < min(most, len(self.angles)):
            behind = (asked - self.angles[back % len(self.angles)]) % TURN
            before = (self.angles[ahead % len(self.angles)] - asked) % TURN
            if behind <= before:
                found.append((behind, self.groups[back % len(self.angles)]))
                back -= 1
            else:
                found.append((before, self.groups[ahead % len(self.angles)]))
                ahead += 1
        return found

    def query(self, asked: int) -> Group:
        """The nearest tokens. There must be one."""
        (least, nearest), *other = self.nearest(asked, 2)
        found = nearest.copy()
        if other and other[0][0] == least:
            found.add(other[0][1])
        return found
