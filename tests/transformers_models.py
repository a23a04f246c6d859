"""Small models of `transformers` in which every weight matters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor

VOCAB = 97
ENDS: dict[str, Any] = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6,
    "num_key_value_heads": 2, "intermediate_size": 80, "rms_norm_eps": 1e-4, **ENDS,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
}  # fmt: skip
LLAMA3: dict[str, Any] = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 16,
}  # fmt: skip


def rwkv(**changes: Any) -> Any:
    config = {"vocab_size": VOCAB, "hidden_size": 48, "num_hidden_layers": 3, "rescale_every": 0}
    return transformers.RwkvForCausalLM(transformers.RwkvConfig(**{**config, **changes}))


def llama(**changes: Any) -> Any:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**SIZES, **changes}))


def llama3(**changes: Any) -> Any:
    """Scaled rotations, heads of an own size, biases everywhere."""
    own = {"rope_parameters": LLAMA3, "head_dim": 10, "attention_bias": True, "mlp_bias": True}
    return llama(**{**own, **changes})


def mistral(**changes: Any) -> Any:
    config = {**SIZES, "sliding_window": 9, **changes}
    return transformers.MistralForCausalLM(transformers.MistralConfig(**config))


def qwen2(**changes: Any) -> Any:
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**{**SIZES, **changes}))


def gpt2(**changes: Any) -> Any:
    sizes = {"vocab_size": VOCAB, "n_embd": 48, "n_layer": 3, "n_head": 6, "n_positions": 40}
    config = {**sizes, **ENDS, **changes}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**config))


MAKERS: dict[str, Callable[..., Any]] = {
    "rwkv": rwkv, "llama": llama, "llama3": llama3, "mistral": mistral, "qwen2": qwen2,
    "gpt2": gpt2,
}  # fmt: skip


def theirs(kind: str, **changes: Any) -> Any:
    """The model `kind` with other settings in its configuration."""
    torch.manual_seed(0)
    model = MAKERS[kind](**changes).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = parameter.shape[-1] ** -0.5 if parameter.ndim == 2 else 0.2
            parameter.add_(torch.randn_like(parameter) * scale)
            if "time_mix" in name:
                parameter.uniform_(0, 1)
    return model


def logits_of(model: Any, tokens: Tensor) -> Tensor:
    """Logits `[B, T, V]` of a model of ours or theirs."""
    with torch.no_grad():
        out = model(tokens)
    return out[0] if isinstance(out, tuple) else out.logits
