"""The `model` group as a `ModelSpec`: the size's preset, overruled by what was set by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from conf.schema import NOT_FIELDS
from core.bounds import nearest
from core.errors import UserError
from models import layer_pattern
from models.registry import ModelSpec


def form_problems(model: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the form of a composed group, which may come from a user's own file."""
    for key in ("name", "target"):
        if not isinstance(model.get(key), str):
            yield f"model.{key}={model.get(key)}: expected a name"
    if not isinstance(model.get("size"), str | int | float):
        yield "model.size has no value: give it on the command line"
    sizes = model.get("sizes")
    if not isinstance(sizes, dict) or not all(isinstance(one, dict) for one in sizes.values()):
        yield "model.sizes: expected each size with its fields, as {tiny: {n_layer: 2, n_embd: 64}}"


def model_spec(model: dict[str, Any], vocab_size: int) -> ModelSpec:
    """`model` is the composed group as plain values.

    Raises `UserError` for an unknown size, or `layers` that are no pattern.
    """
    size = str(model["size"])
    sizes = {str(name): preset for name, preset in model["sizes"].items()}
    if size not in sizes:
        raise UserError(
            f"model.size={size!r} is not a size of {model['name']}{nearest(size, list(sizes))}"
        )
    by_hand = {
        name: value for name, value in model.items() if name not in NOT_FIELDS and value is not None
    }
    if "layers" in by_hand and "n_layer" not in by_hand:
        by_hand["n_layer"] = len(layer_pattern.expand(by_hand["layers"], "model.layers"))
    config = {"vocab_size": vocab_size, **sizes[size], **by_hand}
    return ModelSpec(model["name"], size, model["target"], config)
