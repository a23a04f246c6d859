"""The model families of Hugging Face that ours can become, each way: configuration and names.

Ours fuse queries, keys and values, and gate and up, by rows. Both sides rotate the halves of a
head (and not neighbouring channels), so no rows change place.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from core.errors import UserError
from models.formats.weights import listed

Json = dict[str, Any]


class Family(ABC):
    """One family: the translation of its config.json and of its tensors' names."""

    kind: str
    """`model_type` in config.json."""
    architecture: str
    target: str
    embedding: str
    head: str

    @abstractmethod
    def ours(self, path: Path, theirs: Json) -> Json:
        """The fields of our config. Raises `UserError` for an option our model does not have."""

    @abstractmethod
    def theirs(self, config: Any, dtype: torch.dtype) -> Json:
        """What config.json says of a model with our `config`."""

    @abstractmethod
    def parts(self, config: Any, name: str, rows: int) -> dict[str, int]:
        """Their names and numbers of rows, in order, of what is our tensor `name` of `rows`."""


class Rwkv4(Family):
    """`RwkvForCausalLM`.

    Its weights are saved raw; it divides some by two every `rescale_every` layers only while it
    runs, which keeps fp16 from overflowing.
    """

    kind = "rwkv"
    architecture = "RwkvForCausalLM"
    target = "models.rwkv4.RWKV4"
    embedding = "rwkv.embeddings.weight"
    head = "head.weight"

    _NAMES = (
        (r"^emb\.", "embeddings."),
        (r"\.ln0\.", ".pre_ln."),
        (r"\.att\.", ".attention."),
        (r"\.ffn\.", ".feed_forward."),
        (r"time_mix_k$", "time_mix_key"),
        (r"time_mix_v$", "time_mix_value"),
        (r"time_mix_r$", "time_mix_receptance"),
    )

    def ours(self, path: Path, theirs: Json) -> Json:
        width = _count(path, theirs, "hidden_size")
        _refuse(
            path,
            theirs,
            attention_hidden_size=(None, width),
            layer_norm_epsilon=(None, 1e-5),
        )
        return {
            "vocab_size": _count(path, theirs, "vocab_size"),
            "n_layer": _count(path, theirs, "num_hidden_layers"),
            "n_embd": width,
            "n_ffn": _count(path, theirs, "intermediate_size", 4 * width),
        }

    def theirs(self, config: Any, dtype: torch.dtype) -> Json:
        return {
            "hidden_size": config.n_embd,
            "attention_hidden_size": config.n_embd,
            "num_hidden_layers": config.n_layer,
            "intermediate_size": config.n_ffn or 4 * config.n_embd,
            "layer_norm_epsilon": 1e-5,
            "rescale_every": 6 if dtype == torch.float16 else 0,
        }

    def parts(self, config: Any, name: str, rows: int) -> dict[str, int]:
        for pattern, replacement in self._NAMES:
            name = re.sub(pattern, replacement, name)
        return {name if name == self.head else f"rwkv.{name}": rows}


class Llama(Family):
    """`LlamaForCausalLM`, without scaled rotations and without biases."""

    kind = "llama"
    architecture = "LlamaForCausalLM"
    target = "models.transformer.Transformer"
    embedding = "model.embed_tokens.weight"
    head = "lm_head.weight"

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

    def ours(self, path: Path, theirs: Json) -> Json:
        width = _count(path, theirs, "hidden_size")
        heads = _count(path, theirs, "num_attention_heads")
        _refuse(
            path,
            theirs,
            hidden_act=(None, "silu"),
            attention_bias=(None, False),
            mlp_bias=(None, False),
            head_dim=(None, width // heads),
        )
        for key in ("rope_scaling", "rope_parameters"):  # transformers 4, and 5
            rope = theirs.get(key) or {}
            if not isinstance(rope, dict):
                raise UserError(f"{path}: {key}={rope!r}; expected an object")
            _refuse(
                path,
                {"rope_type": rope.get("rope_type", rope.get("type")), **theirs, **rope},
                rope_type=(None, "default"),
                partial_rotary_factor=(None, 1.0),
            )
        rope = theirs.get("rope_parameters") or {}
        return {
            "vocab_size": _count(path, theirs, "vocab_size"),
            "n_layer": _count(path, theirs, "num_hidden_layers"),
            "n_embd": width,
            "n_head": heads,
            "n_kv_head": _count(path, theirs, "num_key_value_heads", heads),
            "n_ffn": _count(path, theirs, "intermediate_size"),
            "rope_base": _number(path, {**theirs, **rope}, "rope_theta", 10_000.0),
            "norm_eps": _number(path, theirs, "rms_norm_eps", 1e-6),
        }

    def theirs(self, config: Any, dtype: torch.dtype) -> Json:
        return {
            "hidden_size": config.n_embd,
            "num_hidden_layers": config.n_layer,
            "num_attention_heads": config.n_head,
            "num_key_value_heads": config.n_kv_head or config.n_head,
            "intermediate_size": config.n_ffn or 3 * config.n_embd,
            "rope_theta": config.rope_base,  # read by transformers 4
            "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_base},
            "rms_norm_eps": config.norm_eps,
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "bos_token_id": None,
            "eos_token_id": None,
        }

    def parts(self, config: Any, name: str, rows: int) -> dict[str, int]:
        for pattern, replacement in self._NAMES:
            name = re.sub(pattern, replacement, name)
        if ".qkv." in name:
            size = config.n_embd // config.n_head
            query_width, shared = config.n_head * size, (config.n_kv_head or config.n_head) * size
            sizes = {"q_proj": query_width, "k_proj": shared, "v_proj": shared}
            return {name.replace("qkv", part): count for part, count in sizes.items()}
        if ".gate_up." in name:
            return {name.replace("gate_up", part): rows // 2 for part in ("gate_proj", "up_proj")}
        return {name: rows}


FAMILIES: tuple[Family, ...] = (Rwkv4(), Llama())


def _refuse(path: Path, theirs: Json, **allowed: tuple[Any, ...]) -> None:
    """Raise `UserError` if a setting has a value that our model does not implement."""

    def problems() -> Iterator[str]:
        for key, values in allowed.items():
            if theirs.get(key) not in values:
                expected = next(value for value in values if value is not None)
                yield f"{key}={theirs[key]!r}, and only {expected!r} is supported"

    if faults := list(problems()):
        raise UserError(f"{path}: {listed(faults)}")


def _count(path: Path, theirs: Json, key: str, default: int | None = None) -> int:
    value = default if theirs.get(key) is None else theirs[key]
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{path}: {key}={value!r}; expected a positive whole number")
    return value


def _number(path: Path, theirs: Json, key: str, default: float) -> float:
    value = default if theirs.get(key) is None else theirs[key]
    if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
        raise UserError(f"{path}: {key}={value!r}; expected a positive number")
    return float(value)
