"""Our own files: the checkpoint of a run, and a single `.safetensors` that describes itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from core.errors import UserError
from core.files import damage, manifest_path
from core.parsing import parse_json, plain
from models.formats import official, tuned
from models.formats.official import EMBEDDING
from models.formats.run_checkpoints import is_sharded
from models.formats.tensor_files import (
    named_tensors,
    read_safetensors,
    read_torch,
    unwrapped,
    write_safetensors,
)
from models.formats.weights import Tuned, Weights, check_sizes, checked, shapes_of
from models.registry import ModelSpec
from models.tuning import INITIAL

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
        is_part = tuned.PART in content[KEY]
        if not is_part:
            check_sizes(path, spec, tensors)
    except (AttributeError, KeyError, TypeError, IndexError, ValueError) as error:
        raise UserError(f"{path} is not a Crossover checkpoint ({error!r:.200})") from None
    if is_part:
        return _beside_frozen(path, spec, tensors, content[KEY])
    return Weights(spec, checked(path, tensors, shapes_of(spec)))


def _beside_frozen(
    path: Path, spec: ModelSpec, tensors: dict[str, Tensor], ours: dict[str, Any]
) -> Weights:
    """The weights of a run that has trained only `tensors`, with those that it has left."""
    recorded = {
        **_mapping(ours.get(tuned.PART)),
        "parent": _mapping(ours.get("ledger")).get("parent"),
        "run": str(path.parent.parent.absolute()),
    }
    weights = read(tuned.frozen_of(path, str(recorded.get("frozen"))))
    if weights.spec.target != spec.target or weights.spec.config != spec.config:
        raise UserError(f"{path} was not trained beside the weights in its run's folder")
    learned = tuned.parsed(path, recorded, tensors, spec)
    return tuned.together(replace(weights, spec=spec), learned)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


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
                if EMBEDDING not in file.keys():  # noqa: SIM118 (adapters alone)
                    return spec
                sizes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
        else:
            content = content_of(path)
            spec = ModelSpec(**plain(part(content, KEY, "identity", "model")))
            if tuned.PART in content[KEY]:  # its other tensors lie elsewhere
                return spec
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
        recorded = description.get(tuned.PART)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: its metadata describes no model ({error!r:.200})") from None
    check_sizes(path, spec, tensors)
    states = {name: tensors.pop(name) for name in [*tensors] if name.startswith(INITIAL)}
    unused = {name: tensors.pop(name) for name in unread if name in tensors}
    kept = checked(path, tensors, shapes_of(spec))
    unused = checked(path, unused, {n: t.shape for n, t in unused.items()})
    learned = tuned.parsed(path, recorded, states, spec) if states else None
    return Weights(spec, kept, unused, learned)


def read_adapters(path: Path) -> tuple[ModelSpec, Tuned] | None:
    """The model and its adapters in a file of nothing else; None if the file is none. Raises
    `UserError` naming what is wrong in it."""
    try:
        with safe_open(path, framework="pt") as file:
            description: Any = parse_json((file.metadata() or {})[KEY])
            if tuned.PART not in description or EMBEDDING in file.keys():  # noqa: SIM118
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        spec = ModelSpec(**description["model"])
        check_sizes(path, replace(spec, config={**spec.config, "vocab_size": 1}), tensors)
    except UserError:
        raise
    except Exception:  # a parser of arbitrary bytes may fail in any way; `read` says what is wrong
        return None
    return spec, tuned.parsed(path, description[tuned.PART], tensors, spec)


def write(weights: Weights, path: Path) -> None:
    """A `.safetensors` file whose metadata says what to build."""
    description: dict[str, Any] = {"model": vars(weights.spec), "unused": [*weights.unused]}
    if weights.tuned is not None and weights.initial:
        description[tuned.PART] = tuned.described(weights.tuned)
    tensors = {**weights.tensors, **weights.unused, **weights.initial}
    write_safetensors(path, tensors, {KEY: json.dumps(description)})


def write_adapters(weights: Weights, path: Path) -> None:
    """A `.safetensors` file of adapters alone, whose metadata says which weights they belong to.

    Raises `UserError` if there are none.
    """
    learned = weights.tuned
    if learned is None or weights.initial:
        raise UserError("format=adapter: these weights have no adapters: tune=lora trains some")
    description = {"model": vars(weights.spec), "unused": [], tuned.PART: tuned.described(learned)}
    write_safetensors(path, learned.tensors, {KEY: json.dumps(description)})
