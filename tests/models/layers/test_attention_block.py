"""Attention beyond the contract: kernels, grouped heads, rotation, caches, windows, limits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from core.errors import UserError
from models.contract import clone_state, named_tensors
from models.decoding.program import is_possible
from models.layers.attention_block import Attention, Rotation, dropout, rope_table
from models.ops.elementwise import rotate
from models.registry import build
from probes.measure.tasks.timing import state_bytes
from tests.models.test_contract import LargestTensor
from tests.registered_models import shaken, some_tokens, spec_of

W = 8  # tokens of a window


@pytest.mark.parametrize("kernel", ["flash", "math"])
def test_kernels_agree(kernel: str) -> None:
    tokens = some_tokens(2, 50)
    torch.testing.assert_close(
        shaken("transformer", attention=kernel)(tokens)[0],
        shaken("transformer")(tokens)[0],
        rtol=1e-4,
        atol=1e-5,
    )
    assert shaken("transformer", attention=kernel).backends()["attention"] == kernel


def test_auto_names_the_kernel_pytorch_takes() -> None:
    assert build(spec_of("transformer")).backends()["attention"] in ("flash", "math")


def test_grouped_heads_are_shared_heads() -> None:
    """With G heads of keys and values, H / G neighbouring query heads see the same ones."""
    torch.manual_seed(0)
    grouped, full = Attention(32, 4, 2, "math"), Attention(32, 4, 4, "math")
    q, k, v = grouped.qkv.weight.split((32, 16, 16))
    repeated = [w.view(2, 8, 32).repeat_interleave(2, dim=0).reshape(32, 32) for w in (k, v)]
    full.qkv.weight.data = torch.cat((q, *repeated))
    full.output.load_state_dict(grouped.output.state_dict())
    x = torch.randn(2, 10, 32)
    torch.testing.assert_close(grouped(x, None, (0, None))[0], full(x, None, (0, None))[0])


def test_grouped_model_obeys_splits() -> None:
    model = shaken("transformer", n_head=4, n_kv_head=2).eval()
    tokens = some_tokens(2, 30)
    whole, _ = model(tokens)
    first, state = model(tokens[:, :13], model.init_state(2))
    second, state = model(tokens[:, 13:], state)
    torch.testing.assert_close(torch.cat((first, second), 1), whole, rtol=1e-4, atol=1e-5)
    assert state["blocks"]["0"]["k"].shape[1] == 2


def test_rotation_depends_on_distance_only() -> None:
    x, y = torch.randn(2, 1, 1, 1, 8).double()
    dots = []
    for shift in (0, 5, 117):
        q = rotate(x, *rope_table(3 + shift, 1, 8, Rotation(10_000.0), x))
        k = rotate(y, *rope_table(1 + shift, 1, 8, Rotation(10_000.0), y))
        dots.append((q * k).sum())
    torch.testing.assert_close(dots[0], dots[1], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(dots[0], dots[2], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_cache_keeps_its_place_while_it_has_room() -> None:
    model = shaken("transformer")
    _, state = model(some_tokens(1, 10), model.init_state(1, capacity=20))
    before = state["blocks"]["0"]["k"].data_ptr()
    _, state = model(some_tokens(1, 10), state)
    assert state["blocks"]["0"]["k"].data_ptr() == before
    assert int(state["length"]) == 20
    _, state = model(some_tokens(1, 1), state)
    assert state["blocks"]["0"]["k"].shape[2] == 64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_head": 3}, "n_embd=64 must be a multiple of model.n_head=3"),
        ({"n_head": 4, "n_kv_head": 3}, "n_head=4 must be a multiple of model.n_kv_head=3"),
        ({"attention": "fast"}, "'fast' is not one of auto, flash"),
    ],
)
def test_impossible_sizes_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        build(spec_of("transformer", **changes))


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


@pytest.mark.parametrize("name", ["transformer", "gpt"])
def test_a_tied_head_reads_the_embedding(name: str) -> None:
    """One parameter, whose gradient is the sum of both places', also after loading."""
    plain, tied = shaken(name), shaken(name, tie_embeddings=True)
    count = [sum(each.numel() for each in model.parameters()) for model in (plain, tied)]
    assert count[0] - count[1] == plain.head.weight.numel()
    assert tied.head.weight is tied.emb.weight
    plain.load_state_dict(tied.state_dict())  # it has both names
    tokens, targets = some_tokens(2, 20), some_tokens(2, 20, seed=2)
    losses = [model.loss(tokens, targets)[0] for model in (plain, tied)]
    assert torch.equal(*losses)
    for loss in losses:
        loss.backward()
    both = plain.emb.weight.grad + plain.head.weight.grad
    torch.testing.assert_close(tied.emb.weight.grad, both)
    copies = {key: value.clone() for key, value in tied.state_dict().items()}
    tied.load_state_dict(copies, assign=True)
    assert tied.head.weight is tied.emb.weight
    names = [one for group in tied.param_groups() for one in group.names]
    assert sorted(names) == sorted(key for key, _ in tied.named_parameters())
    assert "head.weight" not in names


@pytest.mark.parametrize("name", ["transformer", "gpt"])
def test_dropout_is_for_gradients_only(name: str) -> None:
    plain, model = shaken(name), shaken(name, dropout=0.2)
    tokens = some_tokens(2, 30)
    before = torch.get_rng_state()
    whole = plain(tokens)[0]  # nothing is drawn where nothing is dropped
    with torch.no_grad():
        assert torch.equal(model(tokens)[0], whole)
    assert torch.equal(model.eval()(tokens)[0], whole)
    assert torch.equal(torch.get_rng_state(), before)
    first = model.train()(tokens)[0]
    torch.set_rng_state(before)
    model.gradient_checkpointing = True
    again = model(tokens)[0]
    assert torch.equal(first, again) and not torch.allclose(first, whole)
    with pytest.raises(UserError, match=r"model.dropout=1.0 must be at least 0 and below 1"):
        shaken(name, dropout=1.0)


def test_what_is_kept_is_scaled_up() -> None:
    torch.manual_seed(0)
    x = dropout(torch.ones(10_000, requires_grad=True), 0.25, torch.nn.Module())
    assert set(x.tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert x.mean().item() == pytest.approx(1, abs=0.02)
