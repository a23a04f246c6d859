"""Checkpoints of nanoGPT, written as its train.py writes them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import models
from core.errors import UserError
from models.formats.families.gpt2 import nanogpt_names
from models.formats.load import read
from tests.registered_models import VOCAB, shaken, some_tokens


def checkpoint(model: Any, **changes: Any) -> dict[str, Any]:
    """What nanoGPT saves of a compiled model with the weights of our `model`."""
    names = nanogpt_names(model.state_dict())
    tensors = {f"_orig_mod.{names[ours]}": tensor for ours, tensor in model.state_dict().items()}
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 64, "block_size": 32, "vocab_size": VOCAB}
    arguments = {**sizes, "bias": model.config.bias, "dropout": 0.0}
    return {
        "model": tensors, "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}},
        "model_args": {**arguments, **changes}, "iter_num": 3, "best_val_loss": torch.tensor(4.2),
        "config": {"dataset": "shakespeare_char"},
    }  # fmt: skip


def ours(**options: Any) -> Any:
    model = shaken("gpt", n_ffn=256, n_positions=32, **options).eval()
    model.head.weight = torch.nn.Parameter(model.emb.weight.detach())  # tied
    return model


@pytest.mark.parametrize("bias", [False, True])
def test_a_checkpoint_is_the_model(tmp_path: Path, bias: bool) -> None:
    model = ours(bias=bias)
    torch.save(checkpoint(model), tmp_path / "ckpt.pt")
    tokens = some_tokens(1, 20)
    assert torch.equal(models.load(tmp_path / "ckpt.pt")(tokens)[0], model(tokens)[0])


def test_the_names_and_the_arithmetic_are_nanogpts(tmp_path: Path) -> None:
    """The formulas of its model.py, written out over its names."""
    content = checkpoint(ours(bias=True))
    torch.save(content, tmp_path / "ckpt.pt")
    w = {name.removeprefix("_orig_mod.transformer."): t for name, t in content["model"].items()}
    assert {re.sub(r"\.\d+\.", ".0.", name) for name in w} == {
        "wte.weight", "wpe.weight", "ln_f.weight", "ln_f.bias", "_orig_mod.lm_head.weight",
        *(f"h.0.{part}.{kind}" for kind in ("weight", "bias") for part in (
            "ln_1", "ln_2", "attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")),
    }  # fmt: skip

    def norm(x: Tensor, name: str) -> Tensor:
        weight, bias = w[f"{name}.weight"], w[f"{name}.bias"]
        return torch.nn.functional.layer_norm(x, (64,), weight, bias, 1e-5)

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    tokens = some_tokens(1, 20)
    x = w["wte.weight"][tokens] + w["wpe.weight"][:20]
    for h in ("h.0", "h.1"):
        qkv = linear(norm(x, f"{h}.ln_1"), f"{h}.attn.c_attn").split(64, dim=2)
        q, k, v = (part.view(1, 20, 2, 32).transpose(1, 2) for part in qkv)
        scores = q @ k.transpose(2, 3) / 32**0.5
        scores = scores.masked_fill(torch.ones(20, 20).tril() == 0, -torch.inf)
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(1, 20, 64)
        x = x + linear(mixed, f"{h}.attn.c_proj")
        inner = torch.nn.functional.gelu(linear(norm(x, f"{h}.ln_2"), f"{h}.mlp.c_fc"))
        x = x + linear(inner, f"{h}.mlp.c_proj")
    expected = norm(x, "ln_f") @ w["wte.weight"].T
    got = models.load(tmp_path / "ckpt.pt")(tokens)[0]
    torch.testing.assert_close(got, expected, rtol=0, atol=5e-5)


def test_an_old_one_is_the_original_gpt_2(tmp_path: Path) -> None:
    content = checkpoint(ours(bias=True))
    del content["model_args"]["bias"]
    content["model"]["_orig_mod.transformer.h.0.attn.bias"] = torch.ones(1, 1, 32, 32)
    del content["model"]["_orig_mod.lm_head.weight"]
    torch.save(content, tmp_path / "ckpt.pt")
    assert read(tmp_path / "ckpt.pt").spec.config["activation"] == "gelu_tanh"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_layer": 10**9}, "n_layer=1000000000 is more than its"),
        ({"n_head": "two"}, "n_head='two'; expected a positive"),
        ({"n_head": 3}, "n_embd=64 must be a multiple"),
        ({"bias": 2}, "bias=2, and only False or True"),
        ({"block_size": 31}, r"wpe\.weight has shape \[32, 64\]; expected \[31, 64\]"),
        ({"n_embd": torch.zeros(3)}, "n_embd=None; expected a positive"),
        ({"bias": True}, r"ln_1\.bias \[64\] is missing"),
    ],
)
def test_sizes_that_do_not_fit_are_named(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    torch.save(checkpoint(ours(), **changes), tmp_path / "ckpt.pt")
    with pytest.raises(UserError, match=message) as refused:
        models.load(tmp_path / "ckpt.pt")
    assert "ckpt.pt" in str(refused.value)


def test_tensors_alone_do_not_say_how_many_heads(tmp_path: Path) -> None:
    torch.save(checkpoint(ours())["model"], tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"give its folder, with config\.json"):
        models.load(tmp_path / "a.pt")
