"""Attention beyond the contract: kernels, grouped heads, rotation, caches, limits."""

from __future__ import annotations

import pytest
import torch

from core.errors import UserError
from models.layers.attention_block import Attention, rope_table
from models.ops.elementwise import rotate
from models.registry import build
from tests.registered_models import shaken, some_tokens, spec_of


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
        q = rotate(x, *rope_table(3 + shift, 1, 8, 10_000.0, x))
        k = rotate(y, *rope_table(1 + shift, 1, 8, 10_000.0, y))
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


def test_gpt_names_its_limit() -> None:
    model = shaken("gpt", n_positions=16)
    with pytest.raises(UserError, match="16 learned positions, too few for 17 tokens"):
        model(some_tokens(1, 17))
    _, state = model(some_tokens(1, 16), model.init_state(1))
    with pytest.raises(UserError, match="too few for 17"):
        model(some_tokens(1, 1), state)


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
