"""Checkpoints of nanoGPT: `ckpt.pt`, with the sizes of the model beside its tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models.formats.families.family import count, refuse
from models.formats.families.gpt2 import GPT2, nanogpt_names
from models.formats.tensor_files import named_tensors
from models.formats.weights import Weights, check_sizes, checked, shapes_of
from models.registry import ModelSpec

ARGUMENTS = "model_args"


def is_one(content: Any) -> bool:
    """Whether what a file of torch holds is a checkpoint of nanoGPT."""
    return isinstance(content, dict) and isinstance(content.get(ARGUMENTS), dict)


def read(path: Path, content: Any) -> Weights:
    """The model of a checkpoint; its head is the embedding.

    Checkpoints from before nanoGPT had its option `bias` are of the original GPT-2, with biases and
    the approximated GELU. Raises `UserError` for sizes that are none, and for tensors that are
    missing, unknown, misshapen or not finite.
    """
    plain = (int, float, str, type(None))
    given = {str(k): value for k, value in content[ARGUMENTS].items() if isinstance(value, plain)}
    refuse(path, given, bias=(None, False, True))
    width, original = count(path, given, "n_embd"), given.get("bias") is None
    config = {
        "vocab_size": count(path, given, "vocab_size"),
        "n_layer": count(path, given, "n_layer"),
        "n_embd": width,
        "n_head": count(path, given, "n_head"),
        "n_ffn": 4 * width,
        "n_positions": count(path, given, "block_size"),
        "bias": original or given["bias"],
        "tie_embeddings": True,
        **({"activation": "gelu_tanh"} if original else {}),
    }
    spec = ModelSpec("gpt", f"L{config['n_layer']}-D{width}", GPT2.target, config)
    tensors = named_tensors(path, {key: part for key, part in content.items() if key == "model"})
    tensors = {name: one for name, one in tensors.items() if not GPT2.derived.fullmatch(name)}
    if GPT2.embedding in tensors:
        tensors.setdefault(GPT2.head, tensors[GPT2.embedding])
    check_sizes(path, spec, tensors)
    shapes = shapes_of(spec, path)
    names = nanogpt_names(shapes)
    read = checked(path, tensors, {theirs: shapes[ours] for ours, theirs in names.items()})
    return Weights(spec, {ours: read[theirs] for ours, theirs in names.items()})
