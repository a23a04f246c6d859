"""RWKV-5 beyond the contract: official names, initialisation, groups, state and formulas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from core.errors import UserError
from models.rwkv5 import RWKV5, RWKV5Config, gated_head_norm
from tests.models.ops.elementwise.compare import compare, dtypes, heads, rounding
from tests.models.rwkv_laws import (
    LAYERS,
    N_LAYER,
    WIDTH,
    assert_groups,
    assert_matrices,
    assert_names,
    assert_state,
    near,
)

BLOCK = {
    "ln1.weight", "ln1.bias", "ln2.weight", "ln2.bias",
    "att.time_decay", "att.time_faaaa",
    "att.time_mix_k", "att.time_mix_v", "att.time_mix_r", "att.time_mix_g",
    "att.key.weight", "att.value.weight", "att.receptance.weight", "att.gate.weight",
    "att.output.weight", "att.ln_x.weight", "att.ln_x.bias",
    "ffn.time_mix_k", "ffn.time_mix_r",
    "ffn.key.weight", "ffn.receptance.weight", "ffn.value.weight",
}  # fmt: skip


@pytest.fixture(scope="module")
def fresh() -> Any:
    torch.manual_seed(0)
    return RWKV5(RWKV5Config(vocab_size=200, n_layer=N_LAYER, n_embd=WIDTH))


def test_parameters_have_the_official_names(fresh: Any) -> None:
    assert_names(fresh, BLOCK)
    shapes = {name: tuple(p.shape) for name, p in fresh.state_dict().items()}
    assert shapes["blocks.2.att.time_decay"] == shapes["blocks.2.att.time_faaaa"] == (2, 64)
    assert shapes["blocks.2.att.time_mix_g"] == (1, 1, 128)
    assert shapes["blocks.2.ffn.key.weight"] == (448, 128)


def test_hidden_width_is_rounded_down_to_a_multiple_of_32() -> None:
    assert [RWKV5Config(8, 1, width, head_size=32).hidden for width in (64, 96, 768)] == [
        224,
        320,
        2688,
    ]


def test_vectors_start_at_the_official_values(fresh: Any) -> None:
    for layer in LAYERS:
        att, ffn = fresh.blocks[layer].att, fresh.blocks[layer].ffn
        r01, r10 = layer / 3, 1 - layer / 4
        for i in (0, 1, 31, 127):
            spread, mix = i / 127, (i / 128) ** r10
            near(att.time_decay.flatten()[i], -6 + 5 * spread ** (0.7 + 1.3 * r01))
            bonus = r01 * (1 - spread) + 0.1 * ((i + 1) % 3 - 1)
            near(att.time_faaaa.flatten()[i], bonus)
            near(att.time_mix_k[0, 0, i], mix)
            near(att.time_mix_v[0, 0, i], mix + 0.3 * r01)
            near(att.time_mix_r[0, 0, i], (i / 128) ** (0.5 * r10))
            near(att.time_mix_g[0, 0, i], (i / 128) ** (0.5 * r10))
            near(ffn.time_mix_k[0, 0, i], mix)
            near(ffn.time_mix_r[0, 0, i], mix)
        near(att.ln_x.weight[5], ((1 + layer) / 4) ** 0.7)
        near(att.ln_x.bias[5], 0)
        assert att.ln_x.eps == 64e-5


def test_matrices_start_as_the_official_ones(fresh: Any) -> None:
    gains = {"att.receptance": 1.0, "att.key": 0.1, "att.value": 1.0, "att.gate": 0.1}
    zeros = ("att.output", "ffn.receptance", "ffn.value")
    assert_matrices(fresh, gains | {"ffn.key": 1.0}, zeros)


def test_groups_are_the_official_ones(fresh: Any) -> None:
    assert_groups(fresh, faster={"att.time_decay": 2.0})


def test_state_is_two_vectors_and_a_matrix_per_head(fresh: Any) -> None:
    assert_state(fresh)


OPS = torch.ops.crossover


EPS = 64e-5


def group_norm(y: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """As PyTorch's GroupNorm sees it: rows of C channels in H groups."""
    rows = y.flatten(0, 1).flatten(1)
    normed = torch.nn.functional.group_norm(rows, y.shape[2], weight, bias, EPS)
    return normed.view(*y.shape[:2], -1)


def plain_gated(y: Tensor, g: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return group_norm(y, weight, bias) * g * torch.sigmoid(g)


@heads
@dtypes
def test_gated_head_norm(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    B, T, H, N = shape
    y, g = torch.randn(shape).to(dtype), torch.randn(B, T, H * N).to(dtype)
    inputs = y, g, torch.rand(H * N) + 0.5, torch.randn(H * N)
    compare(lambda *x: gated_head_norm(*x, EPS), plain_gated, inputs, rounding(dtype, 4))


def test_a_constant_head_normalises_to_its_bias() -> None:
    y, g = torch.full((1, 2, 2, 8), 3.0), torch.ones(1, 2, 16)
    out = gated_head_norm(y, g, torch.ones(16), torch.arange(16.0), EPS)
    torch.testing.assert_close(out[0, 0], torch.arange(16.0) * torch.sigmoid(torch.tensor(1.0)))


def test_gradients_of_weights_do_not_depend_on_threads() -> None:
    torch.manual_seed(0)
    y, g = torch.randn(4, 400, 2, 64), torch.randn(4, 400, 128)
    weight, bias = torch.rand(128), torch.rand(128)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        given = [x.clone().requires_grad_() for x in (y, g, weight, bias)]
        gated_head_norm(*given, EPS).square().sum().backward()
        results.append([x.grad for x in given])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_opcheck() -> None:
    x, weight = torch.randn(2, 9, 3, 6, requires_grad=True), torch.rand(18, requires_grad=True)
    g = torch.randn(2, 9, 18, requires_grad=True)
    torch.library.opcheck(OPS.gated_head_norm, (x, g, weight, weight, EPS))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda y, g: gated_head_norm(y, g[..., 1:], g[0, 0], g[0, 0], EPS),
            "g must be .2, 9, 18.",
        ),
        (lambda y, g: gated_head_norm(y, g, g[0, 0], g[0, 0, 1:], EPS), "bias must be .18."),
    ],
)
def test_bad_input(call: Callable[..., object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        call(torch.randn(2, 9, 3, 6), torch.randn(2, 9, 18))
