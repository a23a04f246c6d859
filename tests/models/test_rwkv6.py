"""RWKV-6 beyond the contract: official names, initialisation, groups, state and formulas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from core.errors import UserError
from models.rwkv6 import RWKV6, RWKV6Config, dynamic_mix
from tests.models.ops.elementwise.compare import compare, dtypes, rounding, shapes
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
    "att.time_maa_x", "att.time_maa_w", "att.time_maa_k", "att.time_maa_v", "att.time_maa_r",
    "att.time_maa_g", "att.time_maa_w1", "att.time_maa_w2",
    "att.time_decay", "att.time_decay_w1", "att.time_decay_w2", "att.time_faaaa",
    "att.key.weight", "att.value.weight", "att.receptance.weight", "att.gate.weight",
    "att.output.weight", "att.ln_x.weight", "att.ln_x.bias",
    "ffn.time_maa_k", "ffn.time_maa_r",
    "ffn.key.weight", "ffn.receptance.weight", "ffn.value.weight",
}  # fmt: skip


@pytest.fixture(scope="module")
def fresh() -> Any:
    torch.manual_seed(0)
    return RWKV6(RWKV6Config(vocab_size=200, n_layer=N_LAYER, n_embd=WIDTH))


def test_parameters_have_the_official_names(fresh: Any) -> None:
    assert_names(fresh, BLOCK)
    shapes = {name: tuple(p.shape) for name, p in fresh.state_dict().items()}
    assert shapes["blocks.2.att.time_decay"] == shapes["blocks.2.att.time_maa_x"] == (1, 1, 128)
    assert shapes["blocks.2.att.time_faaaa"] == (2, 64)
    assert shapes["blocks.2.att.time_maa_w1"] == (128, 5 * 32)
    assert shapes["blocks.2.att.time_maa_w2"] == (5, 32, 128)
    assert shapes["blocks.2.att.time_decay_w1"] == (128, 64)
    assert shapes["blocks.2.att.time_decay_w2"] == (64, 128)


def test_wide_models_have_twice_the_rank() -> None:
    assert RWKV6Config(8, 1, 2560).ranks == (32, 64)
    assert RWKV6Config(8, 1, 4096).ranks == (64, 128)
    assert RWKV6Config(8, 1, 4096, lora_mix=16).ranks == (16, 128)


def test_vectors_start_at_the_official_values(fresh: Any) -> None:
    for layer in LAYERS:
        att, ffn = fresh.blocks[layer].att, fresh.blocks[layer].ffn
        r01, r10 = layer / 3, 1 - layer / 4
        for i in (0, 1, 31, 127):
            spread, mix = i / 127, (i / 128) ** r10
            near(att.time_decay[0, 0, i], -6 + 5 * spread ** (0.7 + 1.3 * r01))
            bonus = r01 * (1 - spread) + 0.1 * ((i + 1) % 3 - 1)
            near(att.time_faaaa.flatten()[i], bonus)
            for name in "xwk":
                near(att.get_parameter(f"time_maa_{name}")[0, 0, i], 1 - mix)
            near(att.time_maa_v[0, 0, i], 1 - (mix + 0.3 * r01))
            for name in "rg":
                half = (i / 128) ** (0.5 * r10)
                near(att.get_parameter(f"time_maa_{name}")[0, 0, i], 1 - half)
            for name in "kr":
                cubed = (i / 128) ** (r10**3)
                near(ffn.get_parameter(f"time_maa_{name}")[0, 0, i], 1 - cubed)
        near(att.ln_x.weight[5], ((1 + layer) / 4) ** 0.7)
        assert not att.time_maa_w1.any() and not att.time_decay_w1.any()
        for second in (att.time_maa_w2, att.time_decay_w2):
            assert 0.0095 < second.abs().max() <= 0.01
        assert att.ln_x.eps == 64e-5


def test_matrices_start_as_the_official_ones(fresh: Any) -> None:
    gains = {"att.receptance": 1.0, "att.key": 0.1, "att.value": 1.0, "att.gate": 0.1}
    zeros = ("att.output", "ffn.receptance", "ffn.value")
    assert_matrices(fresh, gains | {"ffn.key": 1.0}, zeros)


def test_groups_are_the_official_ones(fresh: Any) -> None:
    assert_groups(fresh, faster={"att.time_decay": 2.0})


def test_state_is_two_vectors_and_a_matrix_per_head(fresh: Any) -> None:
    assert_state(fresh)


def plain_dynamic(z: Tensor, previous: Tensor, mu: Tensor, change: Tensor) -> tuple[Tensor, ...]:
    past = torch.cat([previous[:, None], z[:, :-1]], 1)
    return tuple(z + (past - z) * (mu[m] + change[m]) for m in range(5))


@shapes
@dtypes
def test_dynamic_mix(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    B, _, C = shape
    change = torch.randn(5, *shape) / 2
    inputs = torch.randn(shape), torch.randn(B, C), change
    z, previous, change = (x.to(dtype) for x in inputs)
    compare(dynamic_mix, plain_dynamic, (z, previous, torch.rand(5, C), change), rounding(dtype))


def test_any_split_gives_the_same_mixes() -> None:
    z, mu, change = torch.randn(2, 40, 9), torch.rand(5, 9), torch.randn(5, 2, 40, 9)
    start = torch.zeros(2, 9)
    whole = dynamic_mix(z, start, mu, change)
    first = dynamic_mix(z[:, :17], start, mu, change[:, :, :17])
    second = dynamic_mix(z[:, 17:], z[:, 16], mu, change[:, :, 17:])
    for all_at_once, *parts in zip(whole, first, second, strict=True):
        assert torch.equal(all_at_once, torch.cat(parts, 1))


def test_opcheck() -> None:
    z, previous, mu = (torch.randn(*s, requires_grad=True) for s in ((2, 9, 5), (2, 5), (5, 5)))
    change = torch.randn(5, 2, 9, 5, requires_grad=True)
    torch.library.opcheck(torch.ops.crossover.dynamic_mix, (z, previous, mu, change))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z: dynamic_mix(z, z[:, 0], torch.rand(4, 5), z[None]), "mu must be .5, 5."),
        (lambda z: dynamic_mix(z, z[:, 0], torch.rand(5, 5), z[None]), "change must be"),
    ],
)
def test_bad_input(call: Callable[..., object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        call(torch.randn(2, 9, 5))
