"""RWKV-7 beyond the contract: official names, initialisation, groups and state."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from core.errors import UserError
from models.rwkv7 import RWKV7, RWKV7Config
from tests.models.rwkv_laws import (
    HEAD,
    LAYERS,
    N_LAYER,
    WIDTH,
    assert_groups,
    assert_matrices,
    assert_names,
    assert_orthogonal,
    assert_state,
    near,
)

BLOCK = {
    "ln1.weight", "ln1.bias", "ln2.weight", "ln2.bias",
    "att.x_r", "att.x_w", "att.x_k", "att.x_v", "att.x_a", "att.x_g",
    "att.w0", "att.w1", "att.w2", "att.a0", "att.a1", "att.a2", "att.g1", "att.g2",
    "att.k_k", "att.k_a", "att.r_k",
    "att.key.weight", "att.value.weight", "att.receptance.weight", "att.output.weight",
    "att.ln_x.weight", "att.ln_x.bias",
    "ffn.x_k", "ffn.key.weight", "ffn.value.weight",
}  # fmt: skip


@pytest.fixture(scope="module")
def fresh() -> Any:
    torch.manual_seed(0)
    return RWKV7(RWKV7Config(vocab_size=200, n_layer=N_LAYER, n_embd=WIDTH))


def test_parameters_have_the_official_names(fresh: Any) -> None:
    residual = {f"blocks.{i}.att.v{j}" for i in (1, 2, 3) for j in range(3)}
    names = set(fresh.state_dict())
    assert residual <= names and "blocks.0.att.v0" not in names
    for name in residual:
        names.remove(name)
    model = RWKV7(RWKV7Config(vocab_size=9, n_layer=N_LAYER, n_embd=WIDTH))
    for block in model.blocks[1:]:
        for name in ("v0", "v1", "v2"):
            delattr(block.att, name)
    assert_names(model, BLOCK)
    shapes = {name: tuple(p.shape) for name, p in fresh.state_dict().items()}
    assert shapes["blocks.1.att.w0"] == shapes["blocks.1.att.x_r"] == (1, 1, 128)
    assert shapes["blocks.1.att.r_k"] == (2, 64)
    assert shapes["blocks.1.att.w1"] == (128, 32) and shapes["blocks.1.att.w2"] == (32, 128)
    assert shapes["blocks.1.att.g1"] == (128, 64)


@pytest.mark.parametrize(
    ("width", "ranks"),
    [
        (512, (64, 64, 32, 128)),
        (768, (64, 64, 32, 128)),
        (1024, (64, 64, 64, 160)),
        (2048, (128, 128, 64, 224)),
        (2560, (128, 128, 96, 256)),
        (4096, (160, 160, 96, 320)),
    ],
)
def test_suggested_ranks(width: int, ranks: tuple[int, ...]) -> None:
    config = RWKV7Config(8, 1, width)
    assert tuple(config.ranks[name] for name in "wavg") == ranks
    assert RWKV7Config(8, 1, width, lora_gate=48).ranks["g"] == 48


def test_vectors_start_at_the_official_values(fresh: Any) -> None:
    for layer in LAYERS:
        att, ffn = fresh.blocks[layer].att, fresh.blocks[layer].ffn
        r01, r10 = layer / 3, 1 - layer / 4
        for i in (0, 1, 31, 64, 127):
            spread, ddd = i / 127, i / 128
            s = (i % HEAD - 31.5) / 31.5
            zigzag, linear = s * abs(s), spread - 0.5
            for names, power in (("rg", 0.2), ("wa", 0.9), ("kv", 0.7)):
                for name in names:
                    near(att.get_parameter(f"x_{name}")[0, 0, i], 1 - ddd ** (power * r10))
            near(att.w0[0, 0, i], -6 + 6 * spread ** (1 + r01**0.3) + 0.5 + 2.5 * zigzag)
            near(att.a0[0, 0, i], -0.19 + 0.3 * zigzag + 0.4 * linear)
            if layer > 0:
                near(att.v0[0, 0, i], 0.73 - 0.4 * linear)
            near(att.k_k[0, 0, i], 0.71 - 0.1 * linear)
            near(att.k_a[0, 0, i], 1.02)
            near(att.r_k.flatten()[i], -0.04)
            near(ffn.x_k[0, 0, i], 1 - ddd ** (r10**4))
        near(att.ln_x.weight[5], ((1 + layer) / 4) ** 0.7)
        assert att.ln_x.eps == 64e-5
        for name in "wavg" if layer > 0 else "wag":
            assert not att.get_parameter(f"{name}1").any()
            assert_orthogonal(att.get_parameter(f"{name}2"), 0.1)


def test_matrices_start_as_the_official_ones(fresh: Any) -> None:
    gains = {"att.receptance": 1.0, "att.key": 0.1, "att.value": 1.0, "ffn.key": 1.0}
    assert_matrices(fresh, gains, ("att.output", "ffn.value"))


def test_groups_are_the_official_ones(fresh: Any) -> None:
    assert_groups(fresh, faster={"att.w0": 2.0})


def test_state_is_two_vectors_and_a_matrix_per_head(fresh: Any) -> None:
    assert_state(fresh)


def test_one_layer_divides_by_nothing() -> None:
    model = RWKV7(RWKV7Config(vocab_size=50, n_layer=1, n_embd=64))
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_width_must_be_a_multiple_of_the_head_size() -> None:
    with pytest.raises(UserError, match=r"n_embd=100 must be a multiple of model\.head_size=64"):
        RWKV7(RWKV7Config(vocab_size=50, n_layer=1, n_embd=100))
