"""Our own files: the checkpoint of a run, and a single `.safetensors` that describes itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from core.errors import UserError
from core.files import damage, manifest_path
from core.parsing import parse_json, plain
from models.formats import official
from models.formats.run_checkpoints import is_sharded
from models.formats.tensor_files import (
    named_tensors,
    read_safetensors,
    read_torch,
    unwrapped,
    write_safetensors,
)
from models.formats.weights import Weights, check_sizes, checked, shapes_of
from models.registry import ModelSpec

KEY = "crossover"  # of the metadata in a .safetensors file, and of our part of a checkpoint


RAW, AVERAGE = "raw", "ema"
STATE = {RAW: "state_dict", AVERAGE: "ema"}
"""Where a checkpoint of a run has its weights, and their averages where it has any."""


def read_checkpoint(path: Path, of: str = RAW) -> Weights:
    """The weights of a checkpoint: a run's, or another Lightning program's of an official RWKV.

    `of` is one of `STATE`. Raises `UserError` if it is damaged or neither, or has no averages.
    """
    problem = damage(path)
    if problem and (not path.is_file() or manifest_path(path).exists()):
        raise UserError(f"checkpoint {path}: {problem}")
    content = content_of(path, STATE[RAW])
    if problem and isinstance(content, dict) and KEY in content:  # one of ours, unproven
        raise UserError(f"checkpoint {path}: {problem}")
    if of != RAW and (problem or not isinstance(content, dict) or STATE[of] not in content):
        raise UserError(f"weights={of}: {path} has no averages: it was trained without optim.ema")
    if problem:
        return official.from_tensors(path, named_tensors(path, content))
    try:
        spec = ModelSpec(**plain(part(content, KEY, "identity", "model")))
        tensors = {name.removeprefix("model."): t for name, t in content[STATE[of]].items()}
        check_sizes(path, spec, tensors)
    except (AttributeError, KeyError, TypeError, IndexError, ValueError) as error:
        raise UserError(f"{path} is not a Crossover checkpoint ({error!r:.200})") from None
    return Weights(spec, checked(path, tensors, shapes_of(spec)))


def content_of(path: Path, *parts: str) -> Any:
    """What a checkpoint holds. Tensors that every process has written its share of have values in
    these `parts` of it only, and are on the device `meta` in others. Raises as `read_torch`."""
    if not is_sharded(path):
        return read_torch(path)
    from models.formats import sharded  # imports much of torch

    return sharded.read(path, *parts)


def spec_of(path: Path) -> ModelSpec | None:
    """What a file of ours says it holds, without its tensors being read: only their shapes are
    compared with it. None if it is none of ours, or says nothing sound."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                spec = ModelSpec(**parse_json((file.metadata() or {})[KEY])["model"])
                sizes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
        else:
            content = content_of(path)
            spec = ModelSpec(**plain(part(content, KEY, "identity", "model")))
            sizes = {name: tensor.shape for name, tensor in content["state_dict"].items()}
        tensors = {
            name.removeprefix("model."): torch.empty(size, device="meta")
            for name, size in sizes.items()
        }
        check_sizes(path, spec, tensors)
        if any(tensors[name].shape != shape for name, shape in shapes_of(spec, path).items()):
            return None
    except Exception:  # a parser of arbitrary bytes may fail in any way; `read` says what is wrong
        return None
    return spec


def part(content: Any, *keys: str) -> Any:
    """What lies below `keys` in nested dicts. Raises `KeyError` where something else lies there:
    a tensor would answer to a name, with a warning."""
    for key in keys:
        if not isinstance(content, dict):
            raise KeyError(key)
        content = content[key]
    return content


def read(path: Path) -> Weights:
    """The weights of a `.safetensors` file: one of ours, or one with RWKV's official names.

    Raises `UserError` naming the file and what is wrong in it.
    """
    tensors, metadata = read_safetensors(path)
    if KEY not in metadata:
        return official.from_tensors(path, unwrapped(path, tensors))
    try:
        description: Any = parse_json(metadata[KEY])
        spec = ModelSpec(**description["model"])
        spec, unread = replace(spec, config={**spec.config}), [*description["unused"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: its metadata describes no model ({error!r:.200})") from None
    check_sizes(path, spec, tensors)
    unused = {name: tensors.pop(name) for name in unread if name in tensors}
    kept = checked(path, tensors, shapes_of(spec))
    return Weights(spec, kept, checked(path, unused, {n: t.shape for n, t in unused.items()}))


def write(weights: Weights, path: Path) -> None:
    """A `.safetensors` file whose metadata says what to build."""
    description = {"model": vars(weights.spec), "unused": [*weights.unused]}
    tensors = {**weights.tensors, **weights.unused}
    write_safetensors(path, tensors, {KEY: json.dumps(description)})
