"""Hugging Face directories: `config.json`, and the tensors in one file or in several."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.errors import UserError
from core.files import inside
from core.parsing import read_object
from models.formats.families import FAMILIES, Family
from models.formats.tensor_files import (
    read_pth,
    read_safetensors,
    unwrapped,
    write_safetensors,
)
from models.formats.weights import Weights, check_sizes, checked, common_dtype, shapes_of
from models.registry import ModelSpec, model_class

FILES = ("model.safetensors", "pytorch_model.bin")  # or the same with .index.json, in several
_DERIVED = ".rotary_emb.inv_freq"  # of old Llama files: a table computed from the configuration


def read(folder: Path) -> Weights:
    """The model in a Hugging Face directory.

    Raises `UserError` for another family, for an option that our model does not have, and for
    tensors that are missing, unknown, misshapen or not finite.
    """
    path = inside(folder / "config.json")
    theirs = read_object(path)
    family = next(
        (candidate for candidate in FAMILIES if candidate.kind == theirs.get("model_type")), None
    )
    if family is None:
        kinds = ", ".join(candidate.kind for candidate in FAMILIES)
        raise UserError(f"{path}: model_type={theirs.get('model_type')!r}; supported: {kinds}")
    config = family.ours(path, theirs)
    shape = f"L{config['n_layer']}-D{config['n_embd']}"
    spec = ModelSpec(family.target.split(".")[1], shape, family.target, config)
    tensors = _tensors(folder)
    check_sizes(folder, spec, tensors)
    if theirs.get("tie_word_embeddings") and family.embedding in tensors:
        tensors[family.head] = tensors[family.embedding]
    table, shapes = _table(family, spec), shapes_of(spec)
    expected = {
        part: torch.Size([rows, *shapes[name][1:]])
        for name, parts in table.items()
        for part, rows in parts.items()
    }
    tensors_read = checked(folder, tensors, expected)
    ours = {}
    for name, parts in table.items():
        pieces = [tensors_read[part] for part in parts]
        ours[name] = torch.cat(pieces) if len(pieces) > 1 else pieces[0]
    return Weights(spec, ours)


def write(weights: Weights, folder: Path) -> None:
    """`config.json` and `model.safetensors` into an existing folder.

    Raises `UserError` for a model of no family.
    """
    spec = weights.spec
    family = next((candidate for candidate in FAMILIES if candidate.target == spec.target), None)
    if family is None:
        names = ", ".join(candidate.target.split(".")[1] for candidate in FAMILIES)
        raise UserError(
            f"format=hf is for {names}, and this is a {spec.name}: use format=safetensors"
        )
    tensors: dict[str, Tensor] = {}
    for name, parts in _table(family, spec).items():
        pieces = weights.tensors[name].split([*parts.values()])
        tensors.update(zip(parts, pieces, strict=True))
    dtype = common_dtype(weights.tensors)
    theirs = {
        "architectures": [family.architecture],
        "model_type": family.kind,
        "torch_dtype": str(dtype).removeprefix("torch."),
        "tie_word_embeddings": False,
        "vocab_size": spec.config["vocab_size"],
        **family.theirs(_config(spec), dtype),
    }
    (folder / "config.json").write_text(json.dumps(theirs, indent=2) + "\n", encoding="utf-8")
    write_safetensors(folder / "model.safetensors", tensors, {"format": "pt"})


def _table(family: Family, spec: ModelSpec) -> dict[str, dict[str, int]]:
    """The name of each of our tensors, to the names and numbers of rows of their parts of it."""
    shapes = shapes_of(spec)
    config = _config(spec)
    return {name: family.parts(config, name, shape[0]) for name, shape in shapes.items()}


def _config(spec: ModelSpec) -> Any:
    return model_class(spec.target).Config(**spec.config)


def _tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor of the directory, from one file or from those that an index names."""
    for name in FILES:
        if (folder / name).is_file():
            files = [name]
        elif (index := folder / f"{name}.index.json").is_file():
            names = read_object(inside(index)).get("weight_map")
            if not isinstance(names, dict) or not all(isinstance(n, str) for n in names.values()):
                raise UserError(f"{index}: has no weight_map of file names")
            files = sorted(set(names.values()))
            for file in files:
                if Path(file).name != file:
                    raise UserError(f"{index}: {file!r} is not the name of a file beside it")
        else:
            continue
        tensors: dict[str, Tensor] = {}
        for file in files:
            path = inside(folder / file)
            safe = path.suffix == ".safetensors"
            part = unwrapped(path, read_safetensors(path)[0]) if safe else read_pth(path)
            tensors.update(part)
        return {key: value for key, value in tensors.items() if not key.endswith(_DERIVED)}
    raise UserError(f"{folder}: no {' and no '.join(FILES)} (or .index.json) in it")
