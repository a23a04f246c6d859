"""Attention as an operator: windows, kernels, grouped heads, and the pairs it counts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from models.ops.attention import attend, query_key_pairs

W = 8  # tokens of a window
SHAPES = [(1, 1), (1, 30), (5, 5), (8, 8), (9, 9), (16, 16), (24, 24), (61, 61)]
SHAPES += [(3, 6), (5, 30), (8, 11), (9, 12), (40, 43), (40, 48), (41, 60)]


def band(length: int, keys: int, window: int) -> Tensor:
    """`[T, S]`: whether a query sees a key, by their distance."""
    query = torch.arange(keys - length, keys)[:, None]
    distance = query - torch.arange(keys)
    return (distance >= 0) & (distance < window)


def masked_softmax(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """The definition, with every score."""
    group = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
    scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[3])
    scores = scores.masked_fill(~band(q.shape[2], k.shape[2], window), -math.inf)
    return scores.softmax(dim=3) @ v


def qkv(length: int, keys: int, groups: int = 4) -> list[Tensor]:
    torch.manual_seed(0)
    shapes = [(2, 4, length, 16), (2, groups, keys, 16), (2, groups, keys, 16)]
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize(("length", "keys"), SHAPES)
@pytest.mark.parametrize("window", [1, W])
def test_equals_a_masked_softmax(length: int, keys: int, window: int) -> None:
    inputs = qkv(length, keys)
    got, want = attend(*inputs, "auto", window), masked_softmax(*inputs, window)
    torch.testing.assert_close(got, want)
    upstream = torch.randn_like(want)
    for mine, other in zip(
        torch.autograd.grad(got, inputs, upstream),
        torch.autograd.grad(want, inputs, upstream),
        strict=True,
    ):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("kernel", ["flash", "math"])
@pytest.mark.parametrize("groups", [1, 2])
def test_kernels_and_grouped_heads(kernel: str, groups: int) -> None:
    inputs = qkv(37, 41, groups)
    torch.testing.assert_close(attend(*inputs, kernel, W), masked_softmax(*inputs, W))


@pytest.mark.parametrize(("length", "keys"), SHAPES)
def test_pairs_are_those_of_the_mask(length: int, keys: int) -> None:
    past = keys - length
    assert query_key_pairs(length, past, W, dense=False) == int(band(length, keys, W).sum())
    assert query_key_pairs(length, past, None, dense=False) == int(band(length, keys, 999).sum())
    assert query_key_pairs(length, past, W, dense=True) == length * min(keys, W)
