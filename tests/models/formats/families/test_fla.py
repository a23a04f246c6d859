"""The layout of flash-linear-attention: names, shapes and values as version 0.6 of it has them.

Its kernels need a GPU, so what they compute is compared by hand (docs/formats.md).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.errors import UserError
from models.formats.load import read
from models.formats.official import from_tensors
from models.formats.save import save
from models.formats.weights import Weights
from tests.official_weights import HEAD, LAYERS, RANKS, VOCAB, WIDTH, official_weights

C, H = WIDTH, WIDTH // HEAD
NORMS = {
    f"{norm}.{kind}": [C]
    for norm in ("attn_norm", "ffn_norm", "attn.g_norm")
    for kind in ("weight", "bias")
}
SHAPES: dict[str, dict[str, list[int]]] = {
    "rwkv7": {
        **NORMS,
        **{f"attn.{letter}_proj.weight": [C, C] for letter in "rkvo"},
        **{f"attn.x_{letter}": [1, 1, C] for letter in "rwkvag"},
        "attn.k_k": [C], "attn.k_a": [C], "attn.r_k": [H, HEAD],
        **{
            f"attn.{letter}_lora.lora.{part}": shape
            for letter, rank in (("w", "decay"), ("a", "rate"), ("v", "value"), ("g", "gate"))
            for part, shape in {
                "0.weight": [RANKS[rank], C], "2.weight": [C, RANKS[rank]], "2.bias": [C],
            }.items()
            if (letter, part) != ("g", "2.bias")
        },
        "ffn.x_k": [C], "ffn.key.weight": [4 * C, C], "ffn.value.weight": [C, 4 * C],
    },
    "rwkv6": {
        **NORMS,
        **{f"attn.{letter}_proj.linear.weight": [C, C] for letter in "rkvg"},
        "attn.o_proj.weight": [C, C], "attn.bonus": [H, HEAD], "attn.x_bias": [5, C],
        "attn.x_proj.0.mu": [C], "attn.x_proj.0.linear.weight": [5 * RANKS["mix"], C],
        "attn.x_proj.2.weight": [C, 5 * RANKS["mix"]],
        "attn.w_proj.linear.lora.0.weight": [RANKS["decay"], C],
        "attn.w_proj.linear.lora.2.weight": [C, RANKS["decay"]],
        "attn.w_proj.linear.lora.2.bias": [C],
        "ffn.key.mu": [C], "ffn.key.linear.weight": [3 * C, C], "ffn.value.weight": [C, 3 * C],
        "ffn.receptance.mu": [C], "ffn.receptance.linear.weight": [C, C],
    },
}  # fmt: skip


def weights_of(version: str) -> Weights:
    return from_tensors(Path("a.pth"), official_weights(version))


def written(version: str, folder: Path) -> dict[str, Tensor]:
    save(weights_of(version), folder, "hf")
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("version", SHAPES)
def test_names_and_shapes(tmp_path: Path, version: str) -> None:
    expected = {
        "model.embeddings.weight": [VOCAB, C], "lm_head.weight": [VOCAB, C],
        **{f"model.{norm}.{kind}": [C] for norm in ("norm", "layers.0.pre_norm")
           for kind in ("weight", "bias")},
        **{
            f"model.layers.{layer}.{name}": shape
            for layer in range(LAYERS)
            for name, shape in SHAPES[version].items()
            if layer or "v_lora" not in name
        },
    }  # fmt: skip
    found = {name: list(t.shape) for name, t in written(version, tmp_path / "a").items()}
    assert found == expected
    config = json.loads((tmp_path / "a/config.json").read_text())
    assert (config["model_type"], config["norm_eps"]) == (version, 1e-5)
    assert (config["num_heads"], config["intermediate_size"]) == (
        H, SHAPES[version]["ffn.value.weight"][1],
    )  # fmt: skip


@pytest.mark.parametrize("version", SHAPES)
def test_a_round_keeps_every_bit(tmp_path: Path, version: str) -> None:
    before = weights_of(version)
    save(before, tmp_path / "a", "hf")
    after = read(tmp_path / "a")
    assert after.spec == before.spec
    for name, tensor in before.tensors.items():
        assert torch.equal(after.tensors[name], tensor), name


def test_rwkv_6_keeps_its_streams_in_their_order(tmp_path: Path) -> None:
    ours, theirs = official_weights("rwkv6"), written("rwkv6", tmp_path / "a")
    att, there = "blocks.1.att.", "model.layers.1.attn."
    rank = RANKS["mix"]
    for place, letter in enumerate("rwkvg"):
        mine = "wkvrg".index(letter)
        rows, own = slice(place * rank, (place + 1) * rank), slice(mine * rank, (mine + 1) * rank)
        low, high = theirs[f"{there}x_proj.0.linear.weight"], theirs[f"{there}x_proj.2.weight"]
        assert torch.equal(low[rows], ours[f"{att}time_maa_w1"][:, own].T)
        assert torch.equal(high[:, rows], ours[f"{att}time_maa_w2"][mine].T)
        shares = ours[f"{att}time_maa_{letter}"].flatten()
        assert torch.equal(theirs[f"{there}x_bias"][place], shares)
    eighth = ours[f"{att}receptance.weight"] / 8  # their norm of heads has a 64th of our eps
    assert torch.equal(theirs[f"{there}r_proj.linear.weight"], eighth)


def test_rwkv_7_has_the_eps_of_its_heads(tmp_path: Path) -> None:
    """With heads of 16 their eps is a quarter of ours, so what is normed must be half as large."""
    tensors = official_weights("rwkv7")
    for layer in range(LAYERS):
        tensors[f"blocks.{layer}.att.r_k"] = tensors[f"blocks.{layer}.att.r_k"].reshape(8, 16)
    before = from_tensors(Path("a.pth"), tensors)
    save(before, tmp_path / "a", "hf")
    theirs, there = load_file(tmp_path / "a/model.safetensors"), "model.layers.2.attn."
    halved = tensors["blocks.2.att.receptance.weight"] / 2
    assert torch.equal(theirs[f"{there}r_proj.weight"], halved)
    assert torch.equal(theirs[f"{there}r_k"], tensors["blocks.2.att.r_k"] * 2)
    assert torch.equal(theirs[f"{there}w_lora.lora.0.weight"], tensors["blocks.2.att.w1"].T)
    after = read(tmp_path / "a").tensors
    assert all(torch.equal(after[name], tensor) for name, tensor in before.tensors.items())


def test_what_fp16_cannot_hold_an_eighth_of_is_named(tmp_path: Path) -> None:
    half = weights_of("rwkv6").to(torch.float16)
    with pytest.raises(UserError, match=r"layers\.0\.attn\.r_proj.*choose dtype=float32"):
        save(half, tmp_path / "a", "hf")
    assert not list(tmp_path.iterdir())


def test_older_versions_of_the_layout_are_the_same_model(tmp_path: Path) -> None:
    """The six shares were one tensor, and layer 0 had a value residual that nothing reads."""
    tensors = written("rwkv7", tmp_path / "a")
    before = dict(read(tmp_path / "a").tensors)
    for layer in range(LAYERS):
        att = f"model.layers.{layer}.attn."
        shares = [tensors.pop(f"{att}x_{letter}").flatten() for letter in "rwkvag"]
        tensors[f"{att}x_x"] = torch.stack(shares)
    for part in ("0.weight", "2.weight", "2.bias"):
        name = f"attn.v_lora.lora.{part}"
        tensors[f"model.layers.0.{name}"] = tensors[f"model.layers.1.{name}"].clone()
    save_file(tensors, tmp_path / "a/model.safetensors")
    change(tmp_path / "a", model_type="rwkv7_fla")
    after = read(tmp_path / "a").tensors
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def change(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize(
    ("version", "changes", "message"),
    [
        ("rwkv7", {"attn": {"layers": [1]}}, "attn=.*, and only none is supported"),
        ("rwkv7", {"value_dim": [128, 256, 128]}, "value_dim="),
        ("rwkv7", {"norm_eps": 1e-6}, "norm_eps=1e-06, and only 1e-05"),
        ("rwkv7", {"num_hidden_layers": 10**9}, "n_layer=1000000000 is more than its"),
        ("rwkv7", {"intermediate_size": 100}, r"ffn\.key\.weight has shape \[512, 128\]; expected"),
        ("rwkv6", {"expand_k": 0.5}, "expand_k=0.5, and only 1 is supported"),
        ("rwkv6", {"hidden_act": "relu"}, "hidden_act='relu'"),
        ("rwkv6", {"num_hidden_layers": 4}, r"model\.layers\.3\.\S+ \[\d+(, \d+)?\] is missing"),
    ],
)
def test_what_ours_do_not_do_is_named(
    tmp_path: Path, version: str, changes: dict[str, Any], message: str
) -> None:
    written(version, tmp_path / "a")
    change(tmp_path / "a", **changes)
    with pytest.raises(UserError, match=message) as refused:
        read(tmp_path / "a")
    assert str(tmp_path) in str(refused.value) and "\n" not in str(refused.value)
