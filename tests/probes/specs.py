"""Two real models, as small as they come, and of one size."""

from __future__ import annotations

from models.registry import ModelSpec

VOCAB = 256


def rwkv4(**config: object) -> ModelSpec:
    fields = {"vocab_size": VOCAB, "n_layer": 2, "n_embd": 64, "n_ffn": 348} | config
    return ModelSpec("rwkv4", "tiny", "models.rwkv4.RWKV4", fields)


def transformer(**config: object) -> ModelSpec:
    fields = {"vocab_size": VOCAB, "n_layer": 2, "n_embd": 64, "n_head": 2, "n_ffn": 256} | config
    return ModelSpec("transformer", "tiny", "models.transformer.Transformer", fields)
