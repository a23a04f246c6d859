"""Random weights under RWKV's official names, in which every tensor matters to the logits."""

from __future__ import annotations

import torch
from torch import Tensor

VERSIONS = ("rwkv4", "rwkv5", "rwkv6", "rwkv7")
LAYERS, WIDTH, HEAD, VOCAB = 3, 128, 64, 97
RANKS = {"mix": 8, "decay": 12, "rate": 20, "value": 16, "gate": 24}


def official_weights(version: str, layers: int = LAYERS, seed: int = 0) -> dict[str, Tensor]:
    """What the official trainer saves for `version`, with other numbers. fp32."""
    draw = torch.Generator().manual_seed(seed)
    heads, hidden = WIDTH // HEAD, 4 * WIDTH if version in ("rwkv4", "rwkv7") else 3 * WIDTH

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(shape, generator=draw) * scale

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(shape, generator=draw) * (high - low) + low

    def matrix(rows: int, columns: int) -> Tensor:
        return normal(rows, columns, scale=columns**-0.5)

    def vector(low: float = 0.0, high: float = 1.0) -> Tensor:
        return uniform(low, high, 1, 1, WIDTH)

    weights = {"emb.weight": normal(VOCAB, WIDTH)}

    def norm(name: str) -> None:
        weights[f"{name}.weight"] = uniform(0.5, 1.5, WIDTH)
        weights[f"{name}.bias"] = normal(WIDTH, scale=0.1)

    for layer in range(layers):
        block = f"blocks.{layer}."
        att, ffn = f"{block}att.", f"{block}ffn."
        if layer == 0:
            norm(f"{block}ln0")
        norm(f"{block}ln1")
        norm(f"{block}ln2")
        for name in ("receptance", "key", "value", "output"):
            weights[f"{att}{name}.weight"] = matrix(WIDTH, WIDTH)
        if version in ("rwkv5", "rwkv6"):
            weights[f"{att}gate.weight"] = matrix(WIDTH, WIDTH)
            weights[f"{att}time_faaaa"] = normal(heads, HEAD, scale=0.5)
        if version != "rwkv4":
            norm(f"{att}ln_x")

        mixes: dict[str, tuple[str, ...]] = {}
        if version == "rwkv4":
            weights[f"{att}time_decay"] = uniform(-5, 1.5, WIDTH)
            weights[f"{att}time_first"] = normal(WIDTH, scale=0.5)
            mixes[att] = ("time_mix_k", "time_mix_v", "time_mix_r")
            mixes[ffn] = ("time_mix_k", "time_mix_r")
        elif version == "rwkv5":
            weights[f"{att}time_decay"] = uniform(-5, 1.5, heads, HEAD)
            mixes[att] = ("time_mix_k", "time_mix_v", "time_mix_r", "time_mix_g")
            mixes[ffn] = ("time_mix_k", "time_mix_r")
        elif version == "rwkv6":
            mix, decay = RANKS["mix"], RANKS["decay"]
            weights[f"{att}time_maa_w1"] = matrix(WIDTH, 5 * mix) * 0.5
            weights[f"{att}time_maa_w2"] = normal(5, mix, WIDTH, scale=0.3)
            weights[f"{att}time_decay"] = vector(-5, 1)
            weights[f"{att}time_decay_w1"] = matrix(WIDTH, decay) * 0.5
            weights[f"{att}time_decay_w2"] = normal(decay, WIDTH, scale=0.3)
            mixes[att] = tuple(f"time_maa_{m}" for m in "xwkvrg")
            mixes[ffn] = ("time_maa_k", "time_maa_r")
        else:
            for letter, rank in (("w", "decay"), ("a", "rate"), ("v", "value"), ("g", "gate")):
                weights[f"{att}{letter}1"] = matrix(WIDTH, RANKS[rank]) * 0.5
                weights[f"{att}{letter}2"] = normal(RANKS[rank], WIDTH, scale=0.3)
            weights[f"{att}w0"] = vector(-8, 3)
            weights[f"{att}a0"] = vector(-1, 1)
            weights[f"{att}v0"] = vector(-1, 1)
            weights[f"{att}k_k"] = vector(0.5, 1)
            weights[f"{att}k_a"] = vector(0.8, 1.2)
            weights[f"{att}r_k"] = normal(heads, HEAD, scale=0.2)
            mixes[att] = tuple(f"x_{m}" for m in "rwkvag")
            mixes[ffn] = ("x_k",)

        for prefix, names in mixes.items():
            weights |= {f"{prefix}{name}": vector() for name in names}
        weights[f"{ffn}key.weight"] = matrix(hidden, WIDTH)
        weights[f"{ffn}value.weight"] = matrix(WIDTH, hidden)
        if version != "rwkv7":
            weights[f"{ffn}receptance.weight"] = matrix(WIDTH, WIDTH)
    norm("ln_out")
    weights["head.weight"] = matrix(VOCAB, WIDTH)
    return weights
