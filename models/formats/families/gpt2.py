"""GPT-2's layout, and nanoGPT's, which has its names, as `gpt`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

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
    refuse,
    renamed,
    transposed,
)

_NAMES = (
    (r"^emb\.", "transformer.wte."),
    (r"^pos_emb\.", "transformer.wpe."),
    (r"^ln_out\.", "transformer.ln_f."),
    (r"^head\.", "lm_head."),
    (r"^blocks\.(\d+)\.ln(\d)\.", r"transformer.h.\1.ln_\2."),
    (r"^blocks\.", "transformer.h."),
    (r"\.att\.qkv\.", ".attn.c_attn."),
    (r"\.att\.output\.", ".attn.c_proj."),
    (r"\.ffn\.up\.", ".mlp.c_fc."),
    (r"\.ffn\.down\.", ".mlp.c_proj."),
)
_ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
}
"""Their word for each activation of ours."""
BUFFERS = re.compile(r".*\.attn\.(masked_)?bias")  # the causal mask, in old files
UNBIASED = "bias"
"""Our key in config.json: GPT-2 always has biases, so a model without any is written with zeros."""


class GPT2(OneToOne):
    """`GPT2LMHeadModel`: its matrices are `[in, out]`, the other way round from ours."""

    kinds = ("gpt2",)
    target = "models.gpt.GPT"
    base = "transformer."
    embedding = "transformer.wte.weight"
    head = "lm_head.weight"
    tied = True
    derived = BUFFERS

    def ours(self, path: Path, theirs: Json, shapes: Shapes) -> Json:
        width = count(path, theirs, "n_embd")
        refuse(
            path,
            theirs,
            activation_function=(None, *_ACTIVATIONS),
            layer_norm_epsilon=(None, 1e-5),
            scale_attn_weights=(None, True),
            scale_attn_by_inverse_layer_idx=(None, False),
            add_cross_attention=(None, False),
            **{UNBIASED: (None, False, True)},
        )
        activation = _ACTIVATIONS[theirs.get("activation_function") or "gelu_new"]
        config = {
            "vocab_size": count(path, theirs, "vocab_size"),
            "n_layer": count(path, theirs, "n_layer"),
            "n_embd": width,
            "n_head": count(path, theirs, "n_head"),
            "n_ffn": count(path, theirs, "n_inner", 4 * width),
            "n_positions": count(path, theirs, "n_positions", 1024),
            "bias": theirs.get(UNBIASED) is not False,
        }
        return config | ({"activation": activation} if activation != "gelu" else {})

    def theirs(self, config: Any, dtype: torch.dtype) -> Json:
        activation = config.activation or "gelu"
        theirs = {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "n_layer": config.n_layer,
            "n_embd": config.n_embd,
            "n_head": config.n_head,
            "n_inner": config.n_ffn or 4 * config.n_embd,
            "n_positions": config.n_positions,
            "activation_function": next(k for k, v in _ACTIVATIONS.items() if v == activation),
            "layer_norm_epsilon": 1e-5,
        }
        return theirs if config.bias else {**theirs, UNBIASED: False}

    def rule(self, config: Any, name: str) -> Rule:
        theirs = renamed(name, _NAMES)
        return (
            transposed(theirs) if re.search(r"\.(attn|mlp)\.\w+\.weight$", theirs) else Rule(theirs)
        )

    def to_theirs(self, config: Any, tensors: Tensors) -> dict[str, Tensor]:
        theirs = super().to_theirs(config, tensors)
        if not config.bias:
            for name, tensor in [*theirs.items()]:
                if name.startswith(("transformer.h.", "transformer.ln_f.")):
                    bias = name.removesuffix("weight") + "bias"
                    theirs[bias] = tensor.new_zeros(tensor.shape[-1])
        return theirs

    def to_ours(self, config: Any, tensors: Tensors, names: Iterable[str]) -> dict[str, Tensor]:
        if not config.bias:
            for name, tensor in tensors.items():
                if name.endswith(".bias") and tensor.any():
                    raise UserError(
                        f"its config.json says {UNBIASED}=false and {name} is not zero: remove the "
                        "key to keep the biases"
                    )
        return super().to_ours(config, tensors, names)


def nanogpt_names(names: Iterable[str]) -> Mapping[str, str]:
    """NanoGPT's name of each of our names; its matrices are `[out, in]` as ours are."""
    return {name: renamed(name, _NAMES) for name in names}
