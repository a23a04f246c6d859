"""Sliding-window attention: the masked softmax it equals, and the cost it must not exceed."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from core.errors import UserError
from models.contract import clone_state, named_tensors
from models.decoding.program import is_possible
from models.layers.attention_block import Attention
from models.ops.attention import attend, query_key_pairs
from models.registry import build
from probes.measure.tasks.timing import state_bytes
from tests.models.test_contract import LargestTensor
from tests.registered_models import shaken, some_tokens, spec_of

W = 8
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


@pytest.mark.parametrize("window", [50, 51, 10_000])
def test_a_window_as_long_as_the_text_is_full_attention(window: int) -> None:
    tokens = some_tokens(2, 50)
    full, windowed = shaken("transformer"), shaken("transformer", window=window)
    grads = []
    for model in (full, windowed):
        model.loss(tokens, tokens)[0].backward()
        grads.append([p.grad for p in model.parameters()])
    assert torch.equal(full(tokens)[0], windowed(tokens)[0])
    assert all(torch.equal(one, other) for one, other in zip(*grads, strict=True))
    assert not torch.allclose(full(tokens)[0], shaken("transformer", window=49)(tokens)[0])


@torch.no_grad()
def test_nothing_outside_the_window_is_seen() -> None:
    model = shaken("transformer", window=W, n_layer=1).eval()
    tokens = some_tokens(1, 40)
    changed = tokens.clone()
    changed[:, 10] += 1
    moved = (model(changed)[0] - model(tokens)[0])[0].abs().amax(dim=1)
    assert (moved[10 : 10 + W] > 1e-4).all()
    assert moved[:10].max() < 1e-6 and moved[10 + W :].max() < 1e-6


@pytest.mark.parametrize("kernel", ["flash", "math"])
def test_memory_of_training_is_linear(kernel: str) -> None:
    """No operation, forward or backward, makes anything that grows with T squared."""

    def largest(length: int, window: int | None) -> int:
        layer = Attention(32, 2, None, kernel, window=window)
        with LargestTensor() as seen:
            x = torch.randn(1, length, 32, requires_grad=True)
            layer(x, None, (0, None))[0].sum().backward()
        return seen.elements

    assert 2048 * 2048 / 8 > largest(2048, 16) == 2 * largest(1024, 16)
    if kernel == "math":
        assert largest(1024, None) >= 1024 * 1024, "the instrument must see scores that exist"


@torch.no_grad()
def test_memory_of_reading_a_prompt_in_chunks_is_linear() -> None:
    layer = Attention(32, 2, None, "math", window=16).eval()
    state = layer.init_state(1, None)
    _, state, _ = layer(torch.randn(1, 100, 32), state, (0, None))
    with LargestTensor() as seen:
        layer(torch.randn(1, 1024, 32), state, (100, None))
    assert seen.elements <= 1024 * 1024 / 8


@torch.no_grad()
@pytest.mark.parametrize("capacity", [None, 5, 3000])
def test_the_state_never_holds_more_than_a_window(capacity: int | None) -> None:
    model = shaken("transformer", window=W).eval()
    state = model.init_state(1, capacity)
    bound = 2 * 2 * W * 64 * 4 + 8  # layers, keys and values, [W, C] of fp32; the length
    for chunk in (3, 4, 1, 1, 20, 1, 5, 2, 100, 1):
        _, state = model(some_tokens(1, chunk), state)
        assert state_bytes(state) <= bound
    assert state_bytes(state) == bound
    assert int(state["length"]) == 138
    assert state_bytes(shaken("transformer", window=W).init_state(1, 10**9)) == bound


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_native_steps_equal_torch_all_the_way_round_the_ring(dtype: torch.dtype) -> None:
    model = shaken("transformer", window=W, n_head=4, n_kv_head=2).eval().to(dtype)
    if not is_possible(model):
        pytest.skip("the native step cannot be built here")
    state = model.init_state(2)
    other = clone_state(state)
    assert model.backends()["step"] == "cpu"
    for position in range(3 * W):
        token = some_tokens(2, 1, seed=position)
        got, state = model(token, state)
        hidden, other = model.hidden(token, other)
        tolerance = 1e-5 if dtype == torch.float32 else 0.05
        torch.testing.assert_close(got, model.head(hidden), rtol=tolerance, atol=tolerance)
    ours, theirs = dict(named_tensors(state)), dict(named_tensors(other))
    for name, leaf in theirs.items():
        torch.testing.assert_close(ours[name], leaf, rtol=tolerance, atol=tolerance)


@torch.no_grad()
def test_steps_and_chunks_leave_the_same_ring() -> None:
    model = shaken("transformer", window=W).eval()
    tokens = some_tokens(1, 45)
    _, whole = model(tokens, model.init_state(1))
    state = model.init_state(1)
    for start, stop in ((0, 3), (3, 9), (9, 10), (10, 33), (33, 34), (34, 35), (35, 45)):
        _, state = model(tokens[:, start:stop], state)
    for (_, mine), (_, other) in zip(named_tensors(state), named_tensors(whole), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("length", "keys"), SHAPES)
def test_pairs_are_those_of_the_mask(length: int, keys: int) -> None:
    past = keys - length
    assert query_key_pairs(length, past, W, dense=False) == int(band(length, keys, W).sum())
    assert query_key_pairs(length, past, None, dense=False) == int(band(length, keys, 999).sum())
    assert query_key_pairs(length, past, W, dense=True) == length * min(keys, W)


@torch.no_grad()
@pytest.mark.parametrize(("past", "length"), [(0, 40), (100, 1), (7, 1), (100, 80)])
def test_flops_agree_with_a_count(past: int, length: int) -> None:
    """Blocks multiply every query with two windows of keys and mask half: never more than that."""
    window = 40
    model = shaken("transformer", attention="math", window=window)
    state = model(some_tokens(1, past), model.init_state(1))[1] if past else model.init_state(1)
    with FlopCounterMode(display=False) as counter:
        model(some_tokens(1, length), state)
    masked = 4 * 2 * 64 * length * window if length > window else 0
    counted = counter.get_total_flops() - masked
    assert 0.999 * counted <= model.flops(1, length, past, dense=True) <= 1.001 * counted


def test_cost_beyond_the_window_is_that_of_a_recurrent_model() -> None:
    model: Any = build(spec_of("transformer", window=W))
    step = model.flops(1, 1, past=W)
    assert all(model.flops(1, 1, past=past) == step for past in (W - 1, 2 * W, 10**6))
    assert model.flops(1, 10**6) - model.flops(1, 10**6 - 1) == step
    assert model.flops(1, 1, past=0) < step


def test_an_empty_window_is_refused() -> None:
    with pytest.raises(UserError, match=r"model\.window=0 must be at least 1"):
        build(spec_of("transformer", window=0))
