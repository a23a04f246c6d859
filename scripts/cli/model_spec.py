"""The `model` group as a `ModelSpec`: the size's preset, overruled by what was set by hand."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from conf.schema import NOT_FIELDS
from core.errors import UserError
from models.registry import ModelSpec


def model_spec(model: dict[str, Any], vocab_size: int) -> ModelSpec:
    """`model` is the composed group as plain values. Raises `UserError` for an unknown size."""
    size = str(model["size"])
    sizes = {str(name): preset for name, preset in model["sizes"].items()}
    if size not in sizes:
        raise UserError(
            f"model.size={size!r} is not a size of {model['name']}{nearest(size, list(sizes))}"
        )
    by_hand = {
        name: value for name, value in model.items() if name not in NOT_FIELDS and value is not None
    }
    config = {"vocab_size": vocab_size, **sizes[size], **by_hand}
    return ModelSpec(model["name"], size, model["target"], config)


def nearest(word: str, choices: list[str], aliases: dict[str, str] | None = None) -> str:
    """`; did you mean X?` or `; choose one of X, Y`, to end a message with.

    `aliases` are other people's words, with the choice that means the same.
    """
    meant = (aliases or {}).get(word.lower())
    if meant in choices:
        return f"; did you mean {meant!r}?"
    close = get_close_matches(word, choices, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; choose one of {', '.join(choices)}" if choices else ""
