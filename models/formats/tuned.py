"""What a fine-tuning has learned, apart from the weights that it left as they were.

A checkpoint of such a run, or a file of its adapters, holds what was trained and says which weights
it belongs to: by the SHA-256 of the file in the run's folder that has them, and by the path and
SHA-256 of what the run began with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.errors import UserError
from core.files import damage, recorded_digest, sha256
from models.formats.run_checkpoints import FROZEN
from models.formats.tensor_files import write_pth
from models.formats.weights import Tuned, Weights, checked
from models.formats.weights import shapes_of as shapes_of_model
from models.meta import build_meta
from models.registry import ModelSpec
from models.tuning import INITIAL, LORA, Tuning, merged, trained_names, tune

PART = "tuned"
"""Key of a checkpoint's own part, and of a file's description."""
LAYOUTS = {
    "models.rwkv5.RWKV5": True,
    "models.rwkv6.RWKV6": True,
    "models.rwkv7.RWKV7": False,
}
"""Models for whose states RWKV's tools have a file, and whether theirs is ours transposed: it has
rows of values and columns of keys."""


def parsed(path: Path, recorded: Any, tensors: Mapping[str, Tensor], spec: ModelSpec) -> Tuned:
    """What is `recorded` of a tuning, with its tensors. Raises `UserError` if it makes no sense."""
    try:
        tuning = Tuning.parse(recorded["tuning"])
        frozen, parent, run = recorded["frozen"], recorded["parent"], recorded.get("run")
        if not isinstance(frozen, str) or not isinstance(run, str | None):
            raise ValueError("no digest or no run")
        if not isinstance(parent, dict | None):
            raise ValueError("no parent")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: its tuning makes no sense ({error!r:.200})") from None
    shapes_of_model(spec, path)  # whether it can be built at all
    shapes = shapes_of(spec, tuning)
    return Tuned(tuning, checked(path, tensors, shapes), frozen, parent, run)


def shapes_of(spec: ModelSpec, tuning: Tuning) -> dict[str, torch.Size]:
    """Names and shapes of what a tuning trains of the model that `spec` builds."""
    model = build_meta(spec)
    with torch.device("meta"):
        tune(model, tuning)
    parameters = dict(model.named_parameters())
    return {name: parameters[name].shape for name in trained_names(model)}


def together(weights: Weights, tuned: Tuned) -> Weights:
    """Weights with what was learned beside them: adapters are merged, a state is kept apart."""
    tensors = weights.tensors
    if tuned.tuning.mode == LORA:
        tensors = merged(tensors, tuned.tensors, tuned.tuning)
    return replace(weights, tensors=tensors, tuned=tuned)


def frozen_of(checkpoint: Path, digest: str) -> Path:
    """The file of the weights that the run with this checkpoint has left as they were.

    Raises `UserError` if it is not there, damaged, or not the one of this digest.
    """
    file = checkpoint.parent.parent / FROZEN
    if problem := problem_of(file, digest):
        raise UserError(
            f"checkpoint {checkpoint} holds what was trained beside the weights in {file}, which "
            f"cannot be used ({problem}): bring back that file with its manifest"
        )
    return file


def problem_of(file: Path, digest: str) -> str | None:
    """Why `file` is not the frozen weights of this digest, or None."""
    if problem := damage(file):
        return problem
    return None if recorded_digest(file) == digest else "its SHA-256 is not the recorded one"


def parent_of(path: Path, tuned: Tuned) -> Path:
    """The file with the weights that adapters in the file `path` belong to: in the folder of their
    run, or what that run began with. Raises `UserError` if neither is there any more."""
    places = [(Path(tuned.run, FROZEN), tuned.frozen)] if tuned.run else []
    if tuned.parent:
        places.append((Path(str(tuned.parent.get("path"))), str(tuned.parent.get("sha256"))))
    for place, digest in places:
        if place.is_file() and (recorded_digest(place) or sha256(place)) == digest:
            return place
    named = " or ".join(f"{place} (SHA-256 {digest[:12]}...)" for place, digest in places)
    raise UserError(
        f"{path} holds adapters for the weights in {named or 'no known file'}, which are not there "
        "any more: bring them back, or name the run that trained the adapters"
    )


def merge_file(
    path: Path, spec: ModelSpec, tuned: Tuned, read: Callable[[Path], Weights]
) -> Weights:
    """The weights that adapters in the file `path` belong to, which `read` opens, with them merged.

    Raises `UserError` as `parent_of`, and if they do not fit.
    """
    weights = read(parent_of(path, tuned))
    fits = weights.spec.target == spec.target
    if not fits or shapes_of(weights.spec, tuned.tuning) != shapes_of(spec, tuned.tuning):
        raise UserError(f"{path} holds adapters of another model than that of their parent")
    return together(weights, tuned)


def write_state(weights: Weights, path: Path) -> None:
    """The learned state as RWKV-PEFT writes and RWKV Runner reads it: `blocks.N.att.time_state`
    `[H, N, N]` for each layer. Raises `UserError` if there is none, or no such layout for it."""
    write_pth(path, time_states(weights, "format=state"))


def time_states(weights: Weights, asked: str) -> dict[str, Tensor]:
    """A learned state under RWKV's names. Raises `UserError`, naming what was `asked` for, if there
    is none, or RWKV's tools have no layout for that of this model."""
    states = weights.initial
    if not states:
        raise UserError(f"{asked}: these weights have no learned state: tune=state trains one")
    if weights.spec.target not in LAYOUTS:
        raise UserError(
            f"{asked}: RWKV's tools have no file for a state of {weights.spec.name}: "
            "format=safetensors keeps weights and state together"
        )
    turned = LAYOUTS[weights.spec.target]
    named = {}
    for name, state in states.items():
        layer = name.removeprefix(INITIAL).partition(".")[0]
        state = state.transpose(1, 2) if turned else state
        named[f"blocks.{layer}.att.time_state"] = state.contiguous()
    return named


def described(tuned: Tuned) -> dict[str, Any]:
    """What a file says of a tuning, as plain values that `parsed` reads."""
    return {
        "tuning": tuned.tuning.as_dict(),
        "frozen": tuned.frozen,
        "parent": tuned.parent,
        "run": tuned.run,
    }
