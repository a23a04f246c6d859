"""Llama's layout, which Mistral, Qwen2 and SmolLM have too, as `transformer`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.errors import UserError
from models.formats.families.family import (
    Family,
    Json,
    Shapes,
    Tensors,
    count,
    flag,
    number,
    refuse,
    renamed,
)

_NAMES = (
    (r"^emb\.", "model.embed_tokens."),
    (r"^ln_out\.", "model.norm."),
    (r"^head\.", "lm_head."),
    (r"^blocks\.", "model.layers."),
    (r"\.ln1\.", ".input_layernorm."),
    (r"\.ln2\.", ".post_attention_layernorm."),
    (r"\.att\.output\.", ".self_attn.o_proj."),
    (r"\.att\.", ".self_attn."),
    (r"\.ffn\.down\.", ".mlp.down_proj."),
    (r"\.ffn\.", ".mlp."),
)
_SCALING = {
    "rope_factor": "factor",
    "rope_low": "low_freq_factor",
    "rope_high": "high_freq_factor",
    "rope_length": "original_max_position_embeddings",
}
"""Our fields of Llama 3's scaled rotations, and theirs."""
EPS, THETA, SCALE = (1e-12, 0.1), (1.0, 1e12), (1e-3, 1e6)
"""What is plausible of the eps of norms, the base of rotations, and factors that scale them."""
_KINDS = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM"}


class Llama(Family):
    """The block of Llama: the kinds differ in where biases are, and in the window.

    Ours fuse queries, keys and values, and gate and up, by rows. Both sides rotate the halves of a
    head (and not neighbouring channels), so no rows change place.
    """

    kinds = tuple(_KINDS)
    target = "models.transformer.Transformer"
    base = "model."
    embedding = "model.embed_tokens.weight"
    head = "lm_head.weight"
    derived = re.compile(r".*\.rotary_emb\.inv_freq")  # of old files

    def ours(self, path: Path, theirs: Json, shapes: Shapes) -> Json:
        kind = theirs["model_type"]
        width = count(path, theirs, "hidden_size")
        heads = count(path, theirs, "num_attention_heads")
        layers = count(path, theirs, "num_hidden_layers")
        refuse(
            path,
            theirs,
            hidden_act=(None, "silu"),
            attention_bias=(None, False, True),
            mlp_bias=(None, False, True),
            use_sliding_window=(None, False, True),
        )
        config = {
            "vocab_size": count(path, theirs, "vocab_size"),
            "n_layer": layers,
            "n_embd": width,
            "n_head": heads,
            "n_kv_head": count(path, theirs, "num_key_value_heads", heads),
            "n_ffn": count(path, theirs, "intermediate_size"),
            "norm_eps": number(path, theirs, "rms_norm_eps", EPS, 1e-6),
            **_rotation(path, theirs),
        }
        head_size = count(path, theirs, "head_dim", max(width // heads, 1))
        biased = flag(path, theirs, "attention_bias")
        first = "model.layers.0."
        options = {
            "head_size": head_size if head_size * heads != width else None,
            "window": _window(path, theirs, kind, layers),
            "qkv_bias": biased or kind == "qwen2" or f"{first}self_attn.q_proj.bias" in shapes,
            "output_bias": biased or f"{first}self_attn.o_proj.bias" in shapes,
            "ffn_bias": flag(path, theirs, "mlp_bias") or f"{first}mlp.down_proj.bias" in shapes,
        }
        return config | {key: value for key, value in options.items() if value}

    def theirs(self, config: Any, dtype: torch.dtype) -> Json:
        kind = _kind(config)
        turn = config.rotation
        rope: Json = {"rope_type": "default"}
        if turn.factor != 1:
            rope = {"rope_type": "llama3", "factor": turn.factor}
            rope |= {"low_freq_factor": turn.low, "high_freq_factor": turn.high}
            rope["original_max_position_embeddings"] = turn.length
        theirs = {
            "architectures": [_KINDS[kind]],
            "model_type": kind,
            "hidden_size": config.n_embd,
            "num_hidden_layers": config.n_layer,
            "num_attention_heads": config.n_head,
            "num_key_value_heads": config.n_kv_head or config.n_head,
            "head_dim": config.width_of_head,
            "intermediate_size": config.n_ffn or 3 * config.n_embd,
            "rope_theta": config.rope_base,  # read by transformers 4
            "rope_parameters": {**rope, "rope_theta": config.rope_base},
            "rms_norm_eps": config.norm_eps,
            "hidden_act": "silu",
        }
        if turn.factor != 1:
            theirs["rope_scaling"] = rope  # read by transformers 4
            theirs["max_position_embeddings"] = int(turn.factor * turn.length)
        if kind == "llama":
            theirs["attention_bias"] = bool(config.qkv_bias)
            theirs["mlp_bias"] = bool(config.ffn_bias)
        if kind == "mistral":
            theirs["sliding_window"] = config.window
        if kind == "qwen2":
            theirs["use_sliding_window"] = config.window is not None
            theirs["sliding_window"] = config.window
            theirs["max_window_layers"] = 0 if config.window else config.n_layer
        return theirs

    def to_theirs(self, config: Any, tensors: Tensors) -> dict[str, Tensor]:
        theirs: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            parts = _parts(config, name)
            rows = [*parts.values()] if len(parts) > 1 else [len(tensor)]
            theirs.update(zip(parts, tensor.split(rows), strict=True))
        return theirs

    def to_ours(self, config: Any, tensors: Tensors, names: Iterable[str]) -> dict[str, Tensor]:
        pieces = {name: [tensors[part] for part in _parts(config, name)] for name in names}
        return {
            name: torch.cat(parts) if len(parts) > 1 else parts[0] for name, parts in pieces.items()
        }


def _parts(config: Any, name: str) -> dict[str, int]:
    """Their names and, if there are several, numbers of rows of what is our tensor `name`."""
    name = renamed(name, _NAMES)
    if ".qkv." in name:
        size = config.width_of_head
        queries, shared = config.n_head * size, (config.n_kv_head or config.n_head) * size
        sizes = {"q_proj": queries, "k_proj": shared, "v_proj": shared}
        return {name.replace("qkv", part): rows for part, rows in sizes.items()}
    if ".gate_up." in name:
        rows = config.n_ffn or 3 * config.n_embd
        return {name.replace("gate_up", part): rows for part in ("gate_proj", "up_proj")}
    return {name: 0}


def _kind(config: Any) -> str:
    """Which of the kinds has these biases and this window. Raises `UserError` if none does."""
    if config.qk_norm:
        raise UserError("format=hf: no layout here has model.qk_norm: use format=safetensors")
    if not config.rotates:
        raise UserError("format=hf: no layout here has model.position=nope: use format=safetensors")
    if (config.n_conv or 1) > 1:
        raise UserError("format=hf: no layout here has model.n_conv: use format=safetensors")
    biases = tuple(map(bool, (config.qkv_bias, config.output_bias, config.ffn_bias)))
    if biases == (True, False, False):
        return "qwen2"
    if config.window is None and biases[0] == biases[1]:
        return "llama"
    if biases == (False, False, False):
        return "mistral"
    raise UserError(
        f"format=hf: no layout of Hugging Face has model.qkv_bias={biases[0]}, "
        f"model.output_bias={biases[1]}, model.ffn_bias={biases[2]} and model.window="
        f"{config.window} at once: use format=safetensors"
    )


def _rotation(path: Path, theirs: Json) -> Json:
    """Our fields of the rotations."""
    rope: Json = {}
    for key in ("rope_scaling", "rope_parameters"):  # transformers 4, and 5
        given = theirs.get(key) or {}
        if not isinstance(given, dict):
            raise UserError(f"{path}: {key}={given!r:.60}; expected an object")
        refuse(
            path,
            {"rope_type": given.get("rope_type", given.get("type")), **theirs, **given},
            rope_type=(None, "default", "llama3"),
            partial_rotary_factor=(None, 1.0),
        )
        rope |= given
    fields: Json = {"rope_base": number(path, {**theirs, **rope}, "rope_theta", THETA, 1e4)}
    if rope.get("rope_type", rope.get("type")) == "llama3":
        for ours, key in _SCALING.items():
            is_count = ours == "rope_length"
            fields[ours] = count(path, rope, key) if is_count else number(path, rope, key, SCALE)
    return fields


def _window(path: Path, theirs: Json, kind: str, layers: int) -> int | None:
    """How many tokens a token sees, if not all. Raises `UserError` if layers differ."""
    types = theirs.get("layer_types")
    if types is not None:
        if not isinstance(types, list) or len({*map(str, types)}) != 1:
            raise UserError(
                f"{path}: layer_types={types!r:.60}; layers that differ are not supported"
            )
        refuse(path, {"layer_types": types[0]}, layer_types=("full_attention", "sliding_attention"))
    if kind == "llama" or (types is not None and types[0] == "full_attention"):
        return None
    if kind == "qwen2" and types is None:
        if not flag(path, theirs, "use_sliding_window"):
            return None
        full = theirs.get("max_window_layers", 28)
        if type(full) is not int or 0 < full < layers:
            raise UserError(
                f"{path}: max_window_layers={full!r:.60} of {layers} layers; layers that differ "
                "are not supported"
            )
        if full >= layers:
            return None
    if "sliding_window" in theirs and theirs["sliding_window"] is None:
        return None
    return count(path, theirs, "sliding_window", 4096)
