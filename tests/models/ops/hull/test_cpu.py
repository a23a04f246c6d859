"""The C++ hulls beside the search of all keys."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from models.ops.hull import cpu, reference
from models.ops.hull.reference import Found
from tests.models.ops.hull.cases import CASES, case

LENGTHS = (1, 2, 63, 64, 65, 600)
WIDTH = 3


def assert_found(found: Found | None, expected: Found) -> None:
    assert found is not None
    for name, one, other in zip(Found._fields, found, expected, strict=True):
        assert torch.equal(one, other), name


def values(length: int) -> Tensor:
    return torch.randn(length, WIDTH, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("length", LENGTHS)
def test_finds_what_a_search_finds(name: str, length: int) -> None:
    q, k = case(name, length)
    v = values(length)
    expected = reference.scan(q, k)
    means = reference.scan_values(q, k, v.double(), "mean")
    for found, mean in (cpu.empty((), WIDTH).step(0, k, q, v), cpu.prefill(q, k, v)):
        assert_found(found, expected)
        torch.testing.assert_close(mean, means, rtol=0, atol=1e-12)
    assert_found(cpu.empty(()).step(0, k, q)[0], expected)
    assert_found(cpu.prefill(q, k)[0], expected)


@pytest.mark.parametrize("name", CASES)
def test_queries_afterwards(name: str) -> None:
    q, k = case(name, 333, seed=1)
    v = values(333)
    hulls = cpu.empty((), WIDTH)
    hulls.step(0, k, v=v)
    found, mean = hulls.query(q)
    assert_found(found, reference.scan(q, k, past=333))
    expected = reference.scan_values(q, k, v.double(), "mean", past=333)
    torch.testing.assert_close(mean, expected, rtol=0, atol=1e-12)


def test_heads_and_pieces(threads: Callable[[int], None]) -> None:
    """Many heads at once, in pieces, on two threads, with arenas that have to grow."""
    q, k = (torch.stack(x) for x in zip(*(case(n, 2000) for n in CASES), strict=True))
    q, k = q.reshape(3, 4, 2000, 2), k.reshape(3, 4, 2000, 2)
    expected = cpu.prefill(q, k)[0]
    threads(2)
    hulls = cpu.empty((3, 4))
    found = []
    for start, stop in ((0, 1), (1, 700), (700, 2000)):
        found.append(hulls.step(start, k[..., start:stop, :], q[..., start:stop, :])[0])
    assert hulls.arena.shape[-1] > cpu.LEAST_BYTES
    joined = Found(*(torch.cat(parts, -1) for parts in zip(*found, strict=True)))
    assert_found(joined, expected)
    assert_found(cpu.prefill(q, k)[0], expected)


def test_a_copy_goes_its_own_way() -> None:
    q, k = case("circle", 300)
    hulls = cpu.empty(())
    hulls.step(0, k[:200])
    copy = cpu.Hulls(hulls.arena.clone())
    copy.step(200, -k[200:])
    assert_found(hulls.step(200, k[200:], q[200:])[0], reference.scan(q[200:], k, past=200))


def test_keeps_what_the_hull_needs() -> None:
    _, k = case("normal", 5000)
    hulls = cpu.empty(())
    hulls.step(0, k)
    assert int(hulls.sizes().sum()) < 60, "few of them are extreme"
    assert hulls.arena.numel() <= 4 * cpu.LEAST_BYTES, "and nothing is kept for the others"
    hulls = cpu.empty(())
    hulls.step(0, case("parabola", 4000)[1])
    assert hulls.sizes().tolist() == [4000, 2], "all of them are extreme above"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_refuses_what_is_not_finite(bad: float) -> None:
    k = torch.zeros(3, 2)
    k[1, 0] = bad
    with pytest.raises(ValueError, match="not finite"):
        cpu.empty(()).step(0, k)
    with pytest.raises(ValueError, match="not finite"):
        cpu.prefill(k, torch.zeros(3, 2))


def test_addresses() -> None:
    generator = torch.Generator().manual_seed(0)
    stored = torch.randint(0, 2**24, (3000,), generator=generator)
    stored = torch.cat((stored, stored[:100], torch.tensor([0, 4095, 4096, 2**24 - 1])))
    asked = torch.cat((stored, torch.randint(0, 2**24, (200,), generator=generator)))
    cache = cpu.Addresses()
    cache.add(stored[:1000])
    cache.add(stored[1000:])
    keys, queries = reference.address_keys(stored), reference.address_queries(asked)
    assert_found(cache.find(asked), reference.scan_pairs(*queries, *keys))


def test_addresses_out_of_range() -> None:
    cache = cpu.Addresses()
    with pytest.raises(ValueError, match="16,777,215"):
        cache.add(torch.tensor([2**24]))
    with pytest.raises(ValueError, match="nothing was stored"):
        cache.find(torch.tensor([1]))


@pytest.mark.parametrize("length", [1, 63, 64, 65, 1000])
def test_what_hulls_are_timed_against(length: int) -> None:
    """The scan rounds scores, which small integers do not need."""
    q, k = case("small integers", length)
    assert torch.equal(cpu.scan(q, k).long(), reference.scan(q, k, past=length).first)
    assert torch.equal(cpu.scan(q, k, causal=True).long(), reference.scan(q, k).first)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_million_keys(name: str) -> None:
    """Queries of all of them, beside the search of all keys."""
    count, asked = 10**6, 60
    q, k = case(name, count)
    q = q[:: count // asked]
    hulls = cpu.empty(())
    hulls.step(0, k)
    found, _ = hulls.query(q)
    for i, query in enumerate(q):
        best = reference.tied(query[None], k, past=count)[0].nonzero()[:, 0]
        row = [int(part[i]) for part in found]
        assert row == [int(best[0]), int(best[-1]), len(best)]


@pytest.mark.slow
def test_addresses_up_to_ten_million() -> None:
    stored = torch.randperm(10**7, generator=torch.Generator().manual_seed(0))[: 10**6]
    cache = cpu.Addresses()
    cache.add(stored)
    found = cache.find(stored)
    assert torch.equal(found.first, torch.arange(10**6))
    assert bool((found.members == 1).all())
