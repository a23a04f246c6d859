"""The `model` group as a `ModelSpec`: the size's preset, overruled by what was set by hand."""

from __future__ import annotations

from typing import Any

from conf.schema import NOT_FIELDS
from core.bounds import nearest
from core.errors import UserError
from models import layer_pattern
from models.registry import ModelSpec


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
