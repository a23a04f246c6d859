"""RWKV-6 and RWKV-7 in the layout of flash-linear-attention (`fla`).

Its norm of heads has eps 1e-5 (RWKV-6) or 1e-5 N (RWKV-7) where ours has 64e-5, as the official
runtime. A norm with eps e of y is one with eps c^2 e of c y, so receptances are scaled by c, and
RWKV-7's bonus, which is added after the norm, by 1 / c. For RWKV-6 c is 1/8 and keeps every bit;
for RWKV-7 with heads of 64 it is 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from core.errors import UserError
from models.formats.families.family import (
    Json,
    OneToOne,
    Rule,
    Shapes,
    Tensors,
    count,
    flattened,
    refuse,
    renamed,
    size,
    transposed,
)

EPS = 1e-5
EPS_RATIO = 64
"""What the eps of our norm of heads is a multiple of."""
_BLOCK = (
    (r"^emb\.", "model.embeddings."),
    (r"^ln_out\.", "model.norm."),
    (r"^head\.", "lm_head."),
    (r"^blocks\.", "model.layers."),
    (r"\.ln0\.", ".pre_norm."),
    (r"\.ln1\.", ".attn_norm."),
    (r"\.ln2\.", ".ffn_norm."),
    (r"\.att\.", ".attn."),
    (r"\.attn\.ln_x\.", ".attn.g_norm."),
    (r"\.attn\.receptance\.", ".attn.r_proj."),
    (r"\.attn\.key\.", ".attn.k_proj."),
    (r"\.attn\.value\.", ".attn.v_proj."),
    (r"\.attn\.gate\.", ".attn.g_proj."),
    (r"\.attn\.output\.", ".attn.o_proj."),
)
_LOW_RANK = {"0": "2.bias", "1": "0.weight", "2": "2.weight"}
"""RWKV-7's w0, w1, w2 in a `lora`: the bias, and both matrices the other way round."""


class Fla(OneToOne):
    """What both generations share."""

    architecture: ClassVar[str]
    base = "model."
    embedding = "model.embeddings.weight"
    head = "lm_head.weight"

    def ours(self, path: Path, theirs: Json, shapes: Shapes) -> Json:
        width = count(path, theirs, "hidden_size")
        refuse(
            path,
            theirs,
            norm_first=(None, True),
            norm_bias=(None, True),
            norm_eps=(None, EPS),
            hidden_act=(None, "sqrelu"),
            attn=(None,),
        )
        inner = size(shapes, "model.layers.0.ffn.value.weight", 1)
        return {
            "vocab_size": count(path, theirs, "vocab_size"),
            "n_layer": count(path, theirs, "num_hidden_layers"),
            "n_embd": width,
            "n_ffn": count(path, theirs, "intermediate_size", inner),
        }

    def theirs(self, config: Any, dtype: torch.dtype) -> Json:
        return {
            "architectures": [self.architecture],
            "model_type": self.kinds[0],
            "hidden_size": config.n_embd,
            "num_hidden_layers": config.n_layer,
            "intermediate_size": config.hidden,
            "hidden_ratio": config.hidden / config.n_embd,
            "hidden_act": "sqrelu",
            "norm_first": True,
            "norm_bias": True,
            "norm_eps": EPS,
            "attn": None,
            "num_heads": config.n_embd // config.head_size,
        }


class Rwkv7Fla(Fla):
    """`RWKV7ForCausalLM`: the folders `fla-hub/rwkv7-*` and `RWKV/RWKV7-Goose-*-HF`."""

    kinds = ("rwkv7", "rwkv7_fla")
    architecture = "RWKV7ForCausalLM"
    target = "models.rwkv7.RWKV7"

    _RANKS: ClassVar = {
        "lora_decay": ("w_lora", "decay_low_rank_dim", 64),
        "lora_rate": ("a_lora", "a_low_rank_dim", 64),
        "lora_value": ("v_lora", "v_low_rank_dim", 16),
        "lora_gate": ("g_lora", "gate_low_rank_dim", 128),
    }
    """Our fields, and where each rank stands: in shapes of the last layer, or in config.json."""

    def ours(self, path: Path, theirs: Json, shapes: Shapes) -> Json:
        config = super().ours(path, theirs, shapes)
        width, layers = config["n_embd"], config["n_layer"]
        refuse(path, theirs, value_dim=(None, width, [width] * min(layers, len(shapes))))
        heads = count(path, theirs, "num_heads", 1)
        own = count(path, theirs, "head_dim", width // heads if theirs.get("num_heads") else 64)
        config["head_size"] = size(shapes, "model.layers.0.attn.r_k", 1) or own
        last = f"model.layers.{layers - 1}.attn."
        for field, (name, key, default) in self._RANKS.items():
            there = size(shapes, f"{last}{name}.lora.0.weight", 0)
            config[field] = there or count(path, theirs, key, default)
        return config

    def theirs(self, config: Any, dtype: torch.dtype) -> Json:
        ranks = {key: config.ranks[name[0]] for name, key, _ in self._RANKS.values()}
        return super().theirs(config, dtype) | {"head_dim": config.head_size} | ranks

    def read_as(self, tensors: Tensors) -> dict[str, Tensor]:
        """The six shares of the token shift were one tensor at first, and some files have the value
        residual of layer 0, which nothing reads."""
        read: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            if name.endswith(".attn.x_x") and tensor.ndim >= 2 and len(tensor) == 6:
                stem = name.removesuffix("x")
                read |= {stem + letter: row for letter, row in zip("rwkvag", tensor, strict=True)}
            elif not name.startswith("model.layers.0.attn.v_lora."):
                read[name] = tensor
        return read

    def rule(self, config: Any, name: str) -> Rule:
        theirs = renamed(name, _BLOCK)
        stem, _, last = theirs.rpartition(".")
        scale = math.sqrt(config.head_size / EPS_RATIO)
        if theirs.endswith(".attn.r_proj.weight"):
            return _scaled(theirs, scale)
        if last == "r_k":
            return _scaled(theirs, 1 / scale)
        if last[0] in "wavg" and last[1:] in _LOW_RANK:
            theirs = f"{stem}.{last[0]}_lora.lora.{_LOW_RANK[last[1:]]}"
            return flattened(theirs) if last[1:] == "0" else transposed(theirs)
        if last in ("k_k", "k_a") or theirs.endswith(".ffn.x_k"):
            return flattened(theirs)
        return Rule(theirs)


class Rwkv6Fla(Fla):
    """`RWKV6ForCausalLM`; it keeps the five streams of the token shift in another order."""

    kinds = ("rwkv6",)
    architecture = "RWKV6ForCausalLM"
    target = "models.rwkv6.RWKV6"

    _NAMES = (
        (r"\.attn\.([rkvg])_proj\.weight", r".attn.\1_proj.linear.weight"),
        (r"\.attn\.time_faaaa$", ".attn.bonus"),
        (r"\.attn\.time_maa_x$", ".attn.x_proj.0.mu"),
        (r"\.attn\.time_maa_w1$", ".attn.x_proj.0.linear.weight"),
        (r"\.attn\.time_maa_w2$", ".attn.x_proj.2.weight"),
        (r"\.attn\.time_decay$", ".attn.w_proj.linear.lora.2.bias"),
        (r"\.attn\.time_decay_w1$", ".attn.w_proj.linear.lora.0.weight"),
        (r"\.attn\.time_decay_w2$", ".attn.w_proj.linear.lora.2.weight"),
        (r"\.ffn\.time_maa_k$", ".ffn.key.mu"),
        (r"\.ffn\.time_maa_r$", ".ffn.receptance.mu"),
        (r"\.ffn\.(key|receptance)\.weight", r".ffn.\1.linear.weight"),
    )
    _OURS, _THEIRS = "wkvrg", "rwkvg"

    def ours(self, path: Path, theirs: Json, shapes: Shapes) -> Json:
        config = super().ours(path, theirs, shapes)
        refuse(path, {"expand_k": 0.5, "expand_v": 1.0, **theirs}, expand_k=(1,), expand_v=(1,))
        heads, first = count(path, theirs, "num_heads", 4), "model.layers.0.attn."
        config["head_size"] = size(shapes, f"{first}bonus", 1) or max(config["n_embd"] // heads, 1)
        there = size(shapes, f"{first}x_proj.0.linear.weight", 0)
        config["lora_mix"] = (there or 0) // 5 or count(path, theirs, "proj_low_rank_dim", 32)
        there = size(shapes, f"{first}w_proj.linear.lora.0.weight", 0)
        config["lora_decay"] = there or count(path, theirs, "gate_low_rank_dim", 64)
        return config

    def theirs(self, config: Any, dtype: torch.dtype) -> Json:
        mix, decay = config.ranks
        sizes = {"expand_k": 1.0, "expand_v": 1.0}
        ranks = {"proj_low_rank_dim": mix, "gate_low_rank_dim": decay}
        return super().theirs(config, dtype) | sizes | ranks

    def rule(self, config: Any, name: str) -> Rule:
        theirs = renamed(renamed(name, _BLOCK), self._NAMES)
        there = [self._OURS.index(letter) for letter in self._THEIRS]
        here = [self._THEIRS.index(letter) for letter in self._OURS]
        if theirs.endswith("x_proj.0.linear.weight"):  # [C, 5 R] to [5 R, C]
            return Rule(
                theirs,
                lambda w: w.unflatten(1, (5, -1))[:, there].flatten(1).mT,
                lambda w: w.unflatten(0, (5, -1))[here].flatten(0, 1).mT,
            )
        if theirs.endswith("x_proj.2.weight"):  # [5, R, C] to [C, 5 R]
            return Rule(
                theirs,
                lambda w: w[there].flatten(0, 1).mT,
                lambda w: w.mT.unflatten(0, (5, -1))[here],
            )
        if theirs.endswith((".lora.0.weight", ".lora.2.weight")):
            return transposed(theirs)
        if theirs.endswith((".mu", ".lora.2.bias")):
            return flattened(theirs)
        if theirs.endswith(".attn.r_proj.linear.weight"):
            return _scaled(theirs, math.sqrt(1 / EPS_RATIO))
        return Rule(theirs)

    def to_theirs(self, config: Any, tensors: Tensors) -> dict[str, Tensor]:
        theirs = super().to_theirs(config, tensors)
        for layer in range(config.n_layer):
            att = f"model.layers.{layer}.attn."
            streams = [theirs.pop(f"{att}time_maa_{letter}") for letter in self._THEIRS]
            theirs[f"{att}x_bias"] = torch.stack([stream.flatten() for stream in streams])
        return theirs

    def to_ours(self, config: Any, tensors: Tensors, names: Iterable[str]) -> dict[str, Tensor]:
        streams = {
            f"model.layers.{layer}.attn.time_maa_{letter}": row
            for layer in range(config.n_layer)
            for letter, row in zip(
                self._THEIRS, tensors[f"model.layers.{layer}.attn.x_bias"], strict=True
            )
        }
        return super().to_ours(config, {**tensors, **streams}, names)


def _scaled(name: str, scale: float) -> Rule:
    """The rule for a tensor that is `scale` times ours there; a power of two keeps every bit."""

    def to_theirs(tensor: Tensor) -> Tensor:
        scaled = tensor * scale
        exact = math.frexp(scale)[0] == 0.5
        if exact and not tensor.is_meta and not torch.equal(scaled / scale, tensor):
            raise UserError(
                f"{name} holds values so small that {str(tensor.dtype).removeprefix('torch.')} "
                "cannot hold an eighth of them: choose dtype=float32 or bfloat16"
            )
        return scaled

    return Rule(name, to_theirs, lambda tensor: tensor / scale)
