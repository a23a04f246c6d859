"""RWKV-4 beyond the contract: official names, initialisation, groups, and back ends."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from models.registry import build
from models.rwkv4 import RWKV4, RWKV4Config
from tests.registered_models import VOCAB, shaken, some_tokens, spec_of


@pytest.fixture(scope="module")
def fresh() -> Any:
    torch.manual_seed(0)
    return RWKV4(RWKV4Config(vocab_size=200, n_layer=4, n_embd=64))


def test_parameters_have_the_official_names(fresh: Any) -> None:
    block = {
        "ln1.weight", "ln1.bias", "ln2.weight", "ln2.bias",
        "att.time_decay", "att.time_first", "att.time_mix_k", "att.time_mix_v", "att.time_mix_r",
        "att.key.weight", "att.value.weight", "att.receptance.weight", "att.output.weight",
        "ffn.time_mix_k", "ffn.time_mix_r",
        "ffn.key.weight", "ffn.receptance.weight", "ffn.value.weight",
    }  # fmt: skip
    outside = {"emb.weight", "ln_out.weight", "ln_out.bias", "head.weight"}
    outside |= {"blocks.0.ln0.weight", "blocks.0.ln0.bias"}
    expected = outside | {f"blocks.{layer}.{name}" for layer in range(4) for name in block}
    assert set(fresh.state_dict()) == expected
    assert fresh.state_dict()["blocks.2.att.time_mix_k"].shape == (1, 1, 64)


def test_vectors_start_at_the_official_values(fresh: Any) -> None:
    for layer in (0, 1, 3):
        att, ffn = fresh.blocks[layer].att, fresh.blocks[layer].ffn
        r01, r10 = layer / 3, 1 - layer / 4
        for i in (0, 1, 31, 63):
            assert att.time_decay[i].item() == pytest.approx(
                -5 + 8 * (i / 63) ** (0.7 + 1.3 * r01), abs=1e-5
            )
            zigzag = (i + 1) % 3 - 1
            assert att.time_first[i].item() == pytest.approx(math.log(0.3) + 0.5 * zigzag, abs=1e-6)
            mix = (i / 64) ** r10
            assert att.time_mix_k[0, 0, i].item() == pytest.approx(mix, abs=1e-6)
            assert att.time_mix_v[0, 0, i].item() == pytest.approx(mix + 0.3 * r01, abs=1e-6)
            half = (i / 64) ** (0.5 * r10)
            assert att.time_mix_r[0, 0, i].item() == pytest.approx(half, abs=1e-6)
            assert ffn.time_mix_k[0, 0, i].item() == pytest.approx(mix, abs=1e-6)
            assert ffn.time_mix_r[0, 0, i].item() == pytest.approx(mix, abs=1e-6)


def test_matrices_start_as_the_official_ones(fresh: Any) -> None:
    assert fresh.emb.weight.abs().max() <= 6e-4
    gram = fresh.head.weight.T @ fresh.head.weight
    torch.testing.assert_close(gram, torch.eye(64) * 0.25 * 200 / 64, atol=1e-4, rtol=0)
    for block in fresh.blocks:
        for zero in (
            block.att.key, block.att.receptance, block.att.output,
            block.ffn.receptance, block.ffn.value,
        ):  # fmt: skip
            assert not zero.weight.any()
        value = block.att.value.weight
        torch.testing.assert_close(value @ value.T, torch.eye(64), atol=1e-5, rtol=0)
        key = block.ffn.key.weight
        torch.testing.assert_close(key.T @ key, 4 * torch.eye(64), atol=1e-4, rtol=0)


def test_first_loss_is_that_of_a_random_head(fresh: Any) -> None:
    tokens = torch.randint(0, 200, (4, 256), generator=torch.Generator().manual_seed(0))
    loss, _ = fresh.loss(tokens, tokens.roll(1, dims=1))
    assert loss.item() == pytest.approx(math.log(200) + 0.125, abs=0.08)


def test_one_layer_divides_by_nothing() -> None:
    model = RWKV4(RWKV4Config(vocab_size=50, n_layer=1, n_embd=8))
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_groups_are_the_official_ones(fresh: Any) -> None:
    scales = {name: group for group in fresh.param_groups() for name in group.names}
    for name, group in scales.items():
        assert group.decay == (name.endswith(".weight") and "ln" not in name), name
        expected = 2.0 if "time_decay" in name else 3.0 if "time_first" in name else 1.0
        assert group.lr_scale == expected, name


def test_state_is_five_numbers_per_channel_and_layer(fresh: Any) -> None:
    _, state = fresh(torch.zeros(1, 30, dtype=torch.long), fresh.init_state(1))
    blocks = state["blocks"].values()
    leaves = [b["att"]["shift"] for b in blocks] + [b["att"]["wkv"] for b in blocks]
    leaves += [b["ffn"]["shift"] for b in blocks]
    assert sum(leaf.numel() for leaf in leaves) == 5 * 64 * 4
    assert all(leaf.untyped_storage().nbytes() == leaf.numel() * 4 for leaf in leaves)


def test_compiled_model_gives_the_same_logits() -> None:
    model = shaken("rwkv4").eval()
    compiled = torch.compile(model, backend="aot_eager")
    tokens = some_tokens(2, 40)
    with torch.no_grad():
        torch.testing.assert_close(compiled(tokens)[0], model(tokens)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close(dtype: torch.dtype) -> None:
    model = shaken("rwkv4").eval()
    tokens = some_tokens(2, 40)
    with torch.no_grad():
        exact, _ = model(tokens)
        rough, _ = model.to(dtype)(tokens)
    assert rough.dtype == dtype
    assert (rough.float() - exact).abs().max() < 0.05 * exact.abs().max()


def test_reference_and_chosen_back_end_agree() -> None:
    tokens = some_tokens(2, 70)
    logits = []
    for wkv in ("reference", "auto"):
        model = shaken("rwkv4", wkv=wkv).eval()
        logits.append(model(tokens)[0])
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-4, atol=1e-5)
    assert build(spec_of("rwkv4", wkv="reference")).backends() == {
        "wkv": "reference",
        "step": "torch",
    }
    assert logits[0].shape == (2, 70, VOCAB)
