"""Hugging Face directories: `config.json`, and the tensors in one file or in several."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.errors import UserError, shown
from core.files import inside
from core.parsing import read_object
from models.formats.families import FAMILIES, Family
from models.formats.families.family import flag
from models.formats.tensor_files import (
    read_pth,
    read_safetensors,
    unwrapped,
    write_safetensors,
)
from models.formats.weights import Weights, check_sizes, checked, common_dtype, shapes_of
from models.registry import ModelSpec, model_class

FILES = ("model.safetensors", "pytorch_model.bin")  # or the same with .index.json, in several


def read(folder: Path) -> Weights:
    """The model in a Hugging Face directory.

    Raises `UserError` for another family, for an option that our model does not have, for quantised
    weights, and for tensors that are missing, unknown, misshapen or not finite.
    """
    path = inside(folder / "config.json")
    theirs = read_object(path)
    kind = theirs.get("model_type")
    candidates = [family for family in FAMILIES if kind in family.kinds]
    if not candidates:
        kinds = ", ".join(dict.fromkeys(kind for family in FAMILIES for kind in family.kinds))
        raise UserError(f"{path}: model_type={shown(repr(kind))}; supported: {kinds}")
    if quantised := theirs.get("quantization_config"):
        method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
        raise UserError(
            f"{path}: the weights are quantised ({shown(method)}): give the directory that they "
            "were made from, or save them again in float32, bfloat16 or float16"
        )
    tensors = _tensors(folder)
    fitting = (one for one in candidates if any(name.startswith(one.base) for name in tensors))
    family = next(fitting, candidates[-1])
    is_tied = flag(path, theirs, "tie_word_embeddings", family.tied)
    tensors = family.read_as(_named(family, is_tied, tensors))
    config = family.ours(path, theirs, {name: tensor.shape for name, tensor in tensors.items()})
    if is_tied and hasattr(model_class(family.target).Config, "tie_embeddings"):
        config["tie_embeddings"] = True
    shape = f"L{config['n_layer']}-D{config['n_embd']}"
    spec = ModelSpec(family.target.split(".")[1], shape, family.target, config)
    check_sizes(folder, spec, tensors)
    shapes = shapes_of(spec, path)
    meta = {name: torch.empty(size, device="meta") for name, size in shapes.items()}
    expected = family.to_theirs(_config(spec), meta)
    read = checked(folder, tensors, {name: tensor.shape for name, tensor in expected.items()})
    try:
        ours = family.to_ours(_config(spec), read, shapes)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None
    return Weights(spec, {name: tensor.reshape(shapes[name]) for name, tensor in ours.items()})


def write(weights: Weights, folder: Path, end_of_text: int | None = None) -> None:
    """`config.json` and `model.safetensors` into an existing folder.

    `end_of_text` is the id of the token that ends a text. Raises `UserError` for a model of no
    family, or with options that its family does not have.
    """
    spec = weights.spec
    family = next((candidate for candidate in FAMILIES if candidate.target == spec.target), None)
    if family is None:
        names = ", ".join(dict.fromkeys(one.target.split(".")[1] for one in FAMILIES))
        raise UserError(
            f"format=hf is for {names}, and this is a {spec.name}: use format=safetensors"
        )
    dtype, config = common_dtype(weights.tensors), _config(spec)
    described = family.theirs(config, dtype)
    tensors = family.to_theirs(config, weights.tensors)
    theirs = {
        **described,
        "torch_dtype": str(dtype).removeprefix("torch."),
        "tie_word_embeddings": bool(getattr(config, "tie_embeddings", None)),
        "vocab_size": spec.config["vocab_size"],
        **dict.fromkeys(("bos_token_id", "eos_token_id"), end_of_text),
    }
    (folder / "config.json").write_text(json.dumps(theirs, indent=2) + "\n", encoding="utf-8")
    write_safetensors(folder / "model.safetensors", tensors, {"format": "pt"})


def _named(family: Family, is_tied: bool, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a whole model: of one saved without its head, or with one matrix for both."""
    kept = {name: one for name, one in tensors.items() if not family.derived.fullmatch(name)}
    if family.embedding.removeprefix(family.base) in kept:  # saved as the model below the head
        kept = {name if name == family.head else family.base + name: t for name, t in kept.items()}
    if is_tied:
        for name, other in ((family.head, family.embedding), (family.embedding, family.head)):
            if other in kept and (name == family.head or name not in kept):
                kept[name] = kept[other]
    return kept


def _config(spec: ModelSpec) -> Any:
    return model_class(spec.target).Config(**spec.config)


def _may_be_beside(path: Path, name: str) -> bool:
    """Whether a file in the folder of `path` can have this name, be it there or not."""
    if not name or Path(name).name != name:
        return False
    try:
        (path.parent / name).lstat()
    except FileNotFoundError:
        pass
    except (OSError, ValueError):  # too long, a NUL
        return False
    return True


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
                if not _may_be_beside(index, file):
                    raise UserError(f"{index}: {file!r:.60} is not the name of a file beside it")
        else:
            continue
        tensors: dict[str, Tensor] = {}
        for file in files:
            path = inside(folder / file)
            safe = path.suffix == ".safetensors"
            part = unwrapped(path, read_safetensors(path)[0]) if safe else read_pth(path)
            tensors.update(part)
        return tensors
    raise UserError(f"{folder}: no {' and no '.join(FILES)} (or .index.json) in it")
