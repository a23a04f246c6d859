"""Hard-max attention with a cache: in C++ and by searching all keys, whole and in pieces."""

from __future__ import annotations

import logging
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from models.contract import clone_state
from models.ops.hull import circle, operator, reference
from models.ops.hull.operator import (
    hard_attention,
    hard_attention_in_the_plane,
    init_cache,
)

BATCH, HEADS, LENGTH, WIDTH = 2, 3, 150, 2
CPU = torch.device("cpu")
KINDS = ("circle", "plane", "nearest 3")


def some(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    q, k, v = torch.randn(3, BATCH, HEADS, LENGTH, WIDTH, generator=g)
    k[:, :, ::5] = k[:, :, :1]  # keys that tie
    return q, k, v


def attend(kind: str, q: Tensor, k: Tensor, v: Tensor, cache: Any) -> tuple[Tensor, Any]:
    if kind == "plane":
        return hard_attention_in_the_plane(q, k, v, cache)
    return hard_attention(q, k, v, cache, *((3, 5.0) if kind == "nearest 3" else ()))


@pytest.fixture(params=["cpu", "reference"])
def native(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(operator, "backend", lambda device: request.param)
    return str(request.param)


@pytest.mark.parametrize("kind", KINDS)
def test_both_back_ends_and_all_splits_agree(kind: str, native: str) -> None:
    q, k, v = some()
    whole, none = attend(kind, q, k, v, None)
    assert none is None
    if kind == "plane":
        expected = reference.scan_values(q, k, v.double(), "mean")
    elif kind == "circle":
        best = circle.tied(circle.angles(q), circle.angles(k)).double()
        expected = best @ v.double() / best.sum(-1, keepdim=True)
    else:
        expected = circle.scan_softmax(
            circle.angles(q), circle.angles(k), v, 5 * q.norm(dim=-1), most=3
        )
    torch.testing.assert_close(whole, expected.float(), rtol=0, atol=1e-6)
    cache = init_cache((BATCH, HEADS), WIDTH, 0, kind == "plane", CPU)
    assert ("arena" in cache) == (native == "cpu")
    parts = []
    for start, end in ((0, 1), (1, 2), (2, 100), (100, LENGTH)):
        part, cache = attend(kind, *(x[:, :, start:end] for x in (q, k, v)), cache)
        parts.append(part)
    assert int(cache["tokens"]) == LENGTH
    torch.testing.assert_close(torch.cat(parts, 2), whole, rtol=0, atol=1e-6)


def test_a_cloned_cache_goes_its_own_way(native: str) -> None:
    q, k, v = some()
    cache = init_cache((BATCH, HEADS), WIDTH, 0, False, CPU)
    _, cache = hard_attention(q[:, :, :90], k[:, :, :90], v[:, :, :90], cache)
    assert cache is not None
    other = clone_state(cache)
    hard_attention(q[:, :, 90:], -k[:, :, 90:], v[:, :, 90:], other)
    again, _ = hard_attention(q[:, :, 90:], k[:, :, 90:], v[:, :, 90:], cache)
    torch.testing.assert_close(again, hard_attention(q, k, v, None)[0][:, :, 90:])


def test_a_cache_that_was_continued_is_used_up() -> None:
    q, k, v = some()
    cache = init_cache((BATCH, HEADS), WIDTH, LENGTH, False, CPU)
    hard_attention(q, k, v, cache)
    with pytest.raises(RuntimeError, match="do not hold 0 keys; to continue one twice, clone it"):
        hard_attention(q, k, v, cache)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_are_not_finite_give_none(kind: str, bad: float) -> None:
    q, k, v = some()
    q[0, 0, 7, 0] = bad
    assert attend(kind, q, k, v, None)[0].isnan().all()
    assert attend(kind, k, q, v, None)[0].isnan().all()


@pytest.mark.parametrize("plane", [False, True])
@pytest.mark.parametrize("order", ["rising", "falling", "random"])
def test_an_arena_never_is_too_small(plane: bool, order: str) -> None:
    """Keys in order leave every node half full, the most nodes that there can be."""
    count = 4000
    place = torch.arange(count).double()
    place = {"rising": place, "falling": place.flip(0), "random": place[torch.randperm(count)]}[
        order
    ]
    angle = place / count * 6
    k = torch.stack((2 * place, -place * place) if plane else (angle.cos(), angle.sin()), -1)
    k = k[None, None]
    run = hard_attention_in_the_plane if plane else hard_attention
    for capacity, step in ((0, 1000), (count, count), (1, 333)):
        cache: Any = init_cache((1, 1), 2, capacity, plane, CPU)
        for start in range(0, count, step):
            part = k[:, :, start : start + step]
            _, cache = run(part, part, part, cache)
    assert cache["sums"].shape[2] >= count


def test_where_there_is_no_compiler_it_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    operator._notice.cache_clear()
    monkeypatch.setattr(operator, "why_not", lambda *_: "no C++ compiler found\nmore")
    with caplog.at_level(logging.WARNING, logger="crossover.hull"):
        assert [operator.backend(CPU) for _ in range(3)] == ["reference"] * 3
    assert [record.getMessage() for record in caplog.records] == [
        "hull: every query is compared with every key, which is slower (cpu: no C++ compiler found)"
    ]
