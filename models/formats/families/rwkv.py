"""RWKV-4 in transformers, and RWKV-5 and 6 in the layout of the folders of the RWKV organisation.

Weights are saved raw; some are divided by two every `rescale_every` layers only while they run,
which keeps fp16 from overflowing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch

from core.errors import UserError
from models.formats.families.family import (
    Json,
    OneToOne,
    Rule,
    Shapes,
    count,
    refuse,
    renamed,
    size,
)

_NAMES = (
    (r"^emb\.", "embeddings."),
    (r"\.ln0\.", ".pre_ln."),
    (r"\.att\.", ".attention."),
    (r"\.ffn\.", ".feed_forward."),
    (r"time_mix_k$", "time_mix_key"),
    (r"time_mix_v$", "time_mix_value"),
    (r"time_mix_r$", "time_mix_receptance"),
    (r"time_mix_g$", "time_mix_gate"),
)
RESCALED_EVERY = 6  # layers, in fp16


class Rwkv(OneToOne):
    """What the three layouts share."""

    architecture: ClassVar[str]
    base = "rwkv."
    embedding = "rwkv.embeddings.weight"
    head = "head.weight"

    def ours(self, path: Path, theirs: Json, shapes: Shapes) -> Json:
        width = count(path, theirs, "hidden_size")
        refuse(
            path,
            theirs,
            attention_hidden_size=(None, width),
            layer_norm_epsilon=(None, 1e-5),
            head_size_divisor=(None, 8),
        )
        return {
            "vocab_size": count(path, theirs, "vocab_size"),
            "n_layer": count(path, theirs, "num_hidden_layers"),
            "n_embd": width,
            "n_ffn": self.inner(path, theirs, width, shapes),
        }

    def inner(self, path: Path, theirs: Json, width: int, shapes: Shapes) -> int:
        """F, the width inside the channel mix."""
        there = size(shapes, "rwkv.blocks.0.feed_forward.key.weight", 0)
        return count(path, theirs, "intermediate_size", there or int(3.5 * width) // 32 * 32)

    def theirs(self, config: Any, dtype: torch.dtype) -> Json:
        return {
            "architectures": [self.architecture],
            "model_type": self.kinds[0],
            "hidden_size": config.n_embd,
            "attention_hidden_size": config.n_embd,
            "num_hidden_layers": config.n_layer,
            "intermediate_size": config.hidden,
            "layer_norm_epsilon": 1e-5,
            "rescale_every": RESCALED_EVERY if dtype == torch.float16 else 0,
        }

    def rule(self, config: Any, name: str) -> Rule:
        name = renamed(name, _NAMES)
        return Rule(name if name == self.head else f"{self.base}{name}")


class Rwkv4(Rwkv):
    """`RwkvForCausalLM`."""

    kinds = ("rwkv",)
    architecture = "RwkvForCausalLM"
    target = "models.rwkv4.RWKV4"

    def inner(self, path: Path, theirs: Json, width: int, shapes: Shapes) -> int:
        return count(path, theirs, "intermediate_size", 4 * width)


class Rwkv5(Rwkv):
    """The folders `RWKV/rwkv-5-world-*` and `RWKV/v5-Eagle-7B-HF`, without their code."""

    kinds = ("rwkv5",)
    architecture = "Rwkv5ForCausalLM"
    target = "models.rwkv5.RWKV5"

    def ours(self, path: Path, theirs: Json, shapes: Shapes) -> Json:
        # `num_attention_heads` of the released ones is no number of heads.
        there = size(shapes, "rwkv.blocks.0.attention.time_faaaa", 1)
        head_size = there or count(path, theirs, "head_size", 64)
        return super().ours(path, theirs, shapes) | {"head_size": head_size}

    def theirs(self, config: Any, dtype: torch.dtype) -> Json:
        if getattr(config, "ungated", None):
            raise UserError(
                "format=hf: no layout here has RWKV-5.0, which has no gate: use format=official "
                "or format=safetensors"
            )
        sizes = dict.fromkeys(("head_size", "num_attention_heads"), config.head_size)
        return super().theirs(config, dtype) | sizes | {"head_size_divisor": 8}


class Rwkv6(Rwkv5):
    """The folders `RWKV/rwkv-6-world-*` and `RWKV/v6-Finch-*-HF`, without their code."""

    kinds = ("rwkv6",)
    architecture = "Rwkv6ForCausalLM"
    target = "models.rwkv6.RWKV6"

    def ours(self, path: Path, theirs: Json, shapes: Shapes) -> Json:
        first = "rwkv.blocks.0.attention."
        ranks = {
            "lora_mix": size(shapes, f"{first}time_maa_w2", 1),
            "lora_decay": size(shapes, f"{first}time_decay_w1", 1),
        }
        return super().ours(path, theirs, shapes) | ranks
