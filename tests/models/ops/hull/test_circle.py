"""Angles: the readable cache and the C++ beside a search of all of them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from models.ops.hull import circle, cpu
from models.ops.hull.circle import TURN, CircleCache
from models.ops.hull.reference import Found
from tests.models.ops.hull.test_cpu import assert_found

WIDTH = 3


def some(kind: str, length: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Angles of queries and keys, int32 `[T]`."""
    g = torch.Generator().manual_seed(seed)
    if kind == "coarse":  # many equal, many opposite, many halfway between two others
        q, k = torch.randint(0, 16, (2, length), generator=g)
        return q.int() * (TURN // 16), (k // 2).int() * (TURN // 8)
    if kind == "around zero":
        q, k = torch.randint(-5, 6, (2, length), generator=g)
        return (q % TURN).int(), (k % TURN).int()
    q, k = torch.randint(0, TURN, (2, length), generator=g)
    return q.int(), k.int()


KINDS = ("spread", "coarse", "around zero")


def stepwise(q: Tensor, k: Tensor) -> Found:
    cache, found = CircleCache(), []
    for asked, angle in zip(q.tolist(), k.tolist(), strict=True):
        cache.add(angle)
        group = cache.query(asked)
        found.append((group.first, group.latest, group.members))
    return Found(*torch.tensor(found).unbind(-1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [1, 2, 33, 700])
def test_nearest_angles(kind: str, length: int) -> None:
    q, k = some(kind, length)
    v = torch.randn(length, WIDTH)
    expected = circle.scan(q, k)
    assert_found(stepwise(q, k), expected)
    circles = cpu.empty_circles((), WIDTH)
    found, mean = circles.step(0, k, q, v)
    assert_found(found, expected)
    best = circle.tied(q, k).double()
    means = best @ v.double() / best.sum(-1, keepdim=True)
    torch.testing.assert_close(mean, means, rtol=0, atol=1e-12)
    found, _ = circles.query(q)
    assert_found(found, circle.scan(q, k, past=length))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("most", [1, 2, 5, 1000])
def test_softmax_over_the_nearest(kind: str, most: int) -> None:
    """In C++ and by the readable cache; over all of them it is softmax attention."""
    length = 150
    q, k = some(kind, length, seed=1)
    v = torch.randn(length, WIDTH)
    scale = torch.rand(length) * 20
    _, mean = cpu.empty_circles((), WIDTH).step(0, k, q, v, most, scale)
    assert mean is not None
    cache = CircleCache()
    for t, (asked, angle) in enumerate(zip(q.tolist(), k.tolist(), strict=True)):
        cache.add(angle)
        weights, total = torch.zeros(length, dtype=torch.float64), 0.0
        for distance, group in cache.nearest(asked, most):
            weight = math.exp(float(scale[t]) * math.cos(distance * 2 * math.pi / TURN))
            weights += weight * ((k == k[group.first]) & (torch.arange(length) <= t)).double()
            total += weight * group.members
        torch.testing.assert_close(mean[t], weights @ v.double() / total, rtol=0, atol=1e-12)
    if most > length:
        whole = circle.scan_softmax(q, k, v, scale)
        torch.testing.assert_close(mean, whole, rtol=0, atol=1e-12)


def test_nearest_is_the_largest_product() -> None:
    """Angles of vectors: the nearest is argmax q . k, wherever fp32 can tell."""
    g = torch.Generator().manual_seed(2)
    q, k = torch.randn(2, 200, 2, generator=g, dtype=torch.float64)
    k = k / k.norm(dim=-1, keepdim=True)
    found = circle.scan(circle.angles(q), circle.angles(k))
    scores = (q @ k.T).masked_fill(~torch.ones(200, 200, dtype=torch.bool).tril(), -math.inf)
    assert torch.equal(found.first, scores.argmax(-1))


def test_angles_wrap() -> None:
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0], [1.0, -1e-12], [0.0, 0.0]])
    assert circle.angles(x).tolist() == [0, TURN // 4, TURN // 2, 3 * TURN // 4, 0, 0]


@pytest.mark.slow
def test_a_million_angles() -> None:
    """Each is found, which as fp32 points most are not."""
    _, k = some("spread", 10**6)
    k = k.unique()[torch.randperm(len(k.unique()))]
    circles = cpu.empty_circles(())
    circles.step(0, k)
    found, _ = circles.query(k)
    assert torch.equal(found.first, torch.arange(len(k)))
