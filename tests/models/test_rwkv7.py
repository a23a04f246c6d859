"""RWKV-7 beyond the contract: official names, initialisation, groups, state and formulas."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from core.errors import UserError
from models.formats.save import save
from models.formats.weights import Weights
from models.rwkv7 import RWKV7, RWKV7Config, bonus_head_norm, delta_keys, log_decay, value_residual
from tests.models.ops.elementwise.compare import compare, dtypes, heads, rounding, shapes
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
from tests.registered_models import shaken, spec_of

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


OPS = torch.ops.crossover


EPS = 64e-5


def plain_decay(e: Tensor, w0: Tensor) -> Tensor:
    return -math.exp(-0.5) / (1 + torch.exp(-(w0 + e)))


def plain_residual(v: Tensor, first: Tensor, e: Tensor, v0: Tensor) -> Tensor:
    share = torch.sigmoid(v0 + e)
    return v * (1 - share) + first * share


def plain_keys(
    k: Tensor, e: Tensor, a0: Tensor, k_k: Tensor, k_a: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    rate = torch.sigmoid(a0 + e)
    kappa = k * k_k
    kappa = kappa / kappa.square().sum(-1, keepdim=True).sqrt().clamp(min=1e-12)
    return k + k * (rate - 1) * k_a, -kappa, kappa * rate


def group_norm(y: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """As PyTorch's GroupNorm sees it: rows of C channels in H groups."""
    rows = y.flatten(0, 1).flatten(1)
    normed = torch.nn.functional.group_norm(rows, y.shape[2], weight, bias, EPS)
    return normed.view(*y.shape[:2], -1)


def plain_bonus(
    y: Tensor, r: Tensor, k: Tensor, v: Tensor, g: Tensor, r_k: Tensor, weight: Tensor, bias: Tensor
) -> Tensor:
    bonus = torch.einsum("bthn,bthn,hn->bth", r, k, r_k)[..., None] * v
    return (group_norm(y, weight, bias) + bonus.flatten(2)) * g


@shapes
@dtypes
def test_decay_and_residual(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    v, first, e = (2 * torch.randn(shape).to(dtype) for _ in range(3))
    base = torch.randn(shape[-1])
    compare(log_decay, plain_decay, (e, base), rounding(dtype))
    compare(value_residual, plain_residual, (v, first, e, base), rounding(dtype, 4))


@heads
@dtypes
def test_delta_keys(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    k, e = (torch.randn(shape).to(dtype) for _ in range(2))
    heads = shape[2:]
    inputs = k, e, torch.randn(heads), torch.rand(heads) + 0.5, torch.randn(heads)
    compare(delta_keys, plain_keys, inputs, rounding(dtype, 4))


@heads
@dtypes
def test_bonus_head_norm(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    B, T, H, N = shape
    y, r, k, v = (torch.randn(shape).to(dtype) for _ in range(4))
    g = torch.randn(B, T, H * N).to(dtype)
    inputs = y, r, k, v, g, torch.randn(H, N) / 4, torch.rand(H * N) + 0.5, torch.randn(H * N)
    compare(lambda *x: bonus_head_norm(*x, EPS), plain_bonus, inputs, rounding(dtype, 4))


def test_decay_stays_in_fp32_and_in_its_range() -> None:
    e = torch.tensor([-1e4, -90.0, 0.0, 90.0, 1e4], dtype=torch.bfloat16).view(1, 5, 1)
    w = log_decay(e, torch.zeros(1))
    assert w.dtype == torch.float32
    assert w.min() >= -0.60653067 and w.max() <= 0
    assert w[0, 2, 0].item() == pytest.approx(-math.exp(-0.5) / 2, rel=1e-6)


def test_a_zero_key_removes_nothing() -> None:
    zero, one = torch.zeros(1, 3, 2, 4, requires_grad=True), torch.ones(2, 4)
    key, a, b = delta_keys(zero, zero, torch.zeros(2, 4), one, one)
    assert not key.any() and not a.any() and not b.any()
    (grad,) = torch.autograd.grad(key.sum(), zero)
    assert grad.isfinite().all()


def test_opcheck() -> None:
    x, base = torch.randn(2, 9, 12, requires_grad=True), torch.rand(12, requires_grad=True)
    torch.library.opcheck(OPS.log_decay, (x, base))
    torch.library.opcheck(OPS.value_residual, (x, x, x, base))
    split, shared = x.detach().view(2, 9, 3, 4), base.detach().view(3, 4)
    torch.library.opcheck(OPS.delta_keys, (split, split, shared, shared, shared))
    split.requires_grad_(), shared.requires_grad_()
    args = (split, split, split, split, x, shared, base, base, EPS)
    torch.library.opcheck(OPS.bonus_head_norm, args)


def test_bad_input() -> None:
    x, base = torch.randn(2, 9, 2, 5), torch.rand(2, 5)
    with pytest.raises(UserError, match=r"delta_keys: k_k must be \[2, 5\], got \[10\]"):
        delta_keys(x, x, base, base.flatten(), base)


@torch.no_grad()
@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_a_rate_up_to_two_turns_a_state_around(backend: str) -> None:
    """With nothing decayed or written, what stands at the removed key changes its sign."""
    mixer = shaken("rwkv7", rate_limit=2.0, wkv=backend).blocks[0].att
    mixer.a0.fill_(100.0)  # a rate of 1, times 2
    mixer.w0.fill_(-100.0)
    mixer.value.weight.zero_()
    x = torch.randn(1, 1, 64)
    state = mixer.init_state(1, None)
    state["wkv"].normal_()
    before = state["wkv"].clone()
    state["shift"] = x[:, 0].clone()
    _, after, _ = mixer(x, state, None)
    kappa = torch.nn.functional.normalize((mixer.key(x) * mixer.k_k).view(1, 2, 32, 1), dim=2)
    torch.testing.assert_close(after["wkv"] @ kappa, -(before @ kappa), rtol=1e-3, atol=1e-4)


def test_a_rate_that_others_do_not_know_is_not_written_for_them(tmp_path: Path) -> None:
    weights = Weights(spec_of("rwkv7", rate_limit=2.0), shaken("rwkv7").state_dict())
    assert not shaken("rwkv7", rate_limit=2.0).can_step
    for name, format in (("a.pth", "official"), ("b", "hf"), ("c.gguf", "gguf")):
        with pytest.raises(
            UserError, match=f"format={format}: no layout there has model.rate_limi"
        ):
            save(weights, tmp_path / name, format)
        assert not (tmp_path / name).exists()
    with pytest.raises(UserError, match=r"model.rate_limit=3.0 must be above 0 and at most 2"):
        shaken("rwkv7", rate_limit=3.0)
