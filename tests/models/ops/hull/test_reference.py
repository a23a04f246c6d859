"""The readable hulls beside a search of all keys in rational numbers."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from models.ops.hull import reference
from models.ops.hull.reference import HullCache
from tests.models.ops.hull.cases import CASES, case

LENGTH = 150


def rational(q: torch.Tensor, k: torch.Tensor) -> list[list[int]]:
    """For each query the tokens up to its own whose keys have the largest score."""
    queries, keys = ([[Fraction(c) for c in row] for row in x.tolist()] for x in (q, k))
    best = []
    for t, query in enumerate(queries):
        scores = [query[0] * key[0] + query[1] * key[1] for key in keys[: t + 1]]
        most = max(scores)
        best.append([j for j, score in enumerate(scores) if score == most])
    return best


@pytest.mark.parametrize("name", CASES)
def test_all_ways_find_what_rational_numbers_say(name: str) -> None:
    q, k = case(name, LENGTH)
    best = rational(q, k)
    expected = [[min(b) for b in best], [max(b) for b in best], [len(b) for b in best]]
    for way in (reference.scan, reference.stepwise, reference.prefill):
        assert [part.tolist() for part in way(q, k)] == expected, way.__name__
    v = torch.randn(LENGTH, 3)
    means = torch.stack([v[b].double().mean(0) for b in best])
    got = reference.scan_values(q, k, v.double(), "mean")
    torch.testing.assert_close(got, means, rtol=0, atol=1e-14)
    assert torch.equal(reference.scan_values(q, k, v, "first"), v[expected[0]])
    assert torch.equal(reference.scan_values(q, k, v, "latest"), v[expected[1]])


def test_queries_after_a_past_see_it() -> None:
    q, k = case("small integers", 40)
    whole, after = reference.scan(q, k), reference.scan(q[25:], k, past=25)
    assert all(torch.equal(a[25:], b) for a, b in zip(whole, after, strict=True))


def test_what_lies_inside_is_dropped() -> None:
    cache = HullCache()
    for key in [(-1.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0), (0.0, 0.5), (0.5, 0.5)]:
        cache.add(key)
    assert cache.upper.points == [(-1, 0), (0, 1), (0.5, 0.5), (1, 0)], "on an edge it stays"
    assert cache.lower.points == [(-1, 0), (0, 0), (1, 0)]
    assert cache.query((1.0, 1.0)).members == 3


def test_addresses() -> None:
    """Bits that are split over two keys are found where one fp32 key rounds them away."""
    stored = torch.tensor([9_999_999, 0, 4095, 4096, 5_000_000, 5_000_001, 2**24 - 1])
    asked = torch.tensor([5_000_001, 2**24 - 1, 4096, 9_999_999])
    found = reference.scan_pairs(*reference.address_queries(asked), *reference.address_keys(stored))
    assert found.first.tolist() == [5, 6, 3, 0]
    assert found.members.tolist() == [1, 1, 1, 1]
    one_key = torch.stack((2 * stored, -stored * stored), -1).float()
    one_query = torch.stack((asked, torch.ones_like(asked)), -1).float()
    assert reference.scan(one_query, one_key, past=len(stored)).first.tolist() != [5, 6, 3, 0]
