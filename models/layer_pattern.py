"""What differs from layer to layer, as one writes it: `64*3,all` or `rwkv7*3,attention(window=64)`.

No PyTorch is needed, so a command line can be checked before that is imported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from core.errors import UserError, shown

ALL = "all"
"""In a list of windows: this layer sees all tokens."""
MOST = 1 << 16
"""Layers that a pattern may stand for."""
_PART = re.compile(r"\s*([^\s*(),]+(?:\([^()]*\))?)\s*(?:\*\s*([0-9]+)\s*)?")


def expand(text: str, key: str) -> list[str]:
    """What stands in each layer of one period: `a*2,b` is `[a, a, b]`.

    Raises `UserError`, which calls the pattern `key`, for anything else.
    """
    layers: list[str] = []
    for part in re.split(r",(?![^()]*\))", str(text)):
        found = _PART.fullmatch(part)
        if found is None or not (found[2] or "1").strip("0"):
            raise UserError(
                f"{key}={shown(repr(str(text)), 200)}: expected parts with commas between them, "
                "each perhaps with a number of layers behind a star, as in a*3,b"
            )
        digits = (found[2] or "1").lstrip("0")
        times = int(digits) if len(digits) <= len(str(MOST)) else MOST + 1
        if len(layers) + times > MOST:
            raise UserError(f"{key}={shown(repr(str(text)), 200)}: more than {MOST:,} layers")
        layers += [found[1]] * times
    return layers


def period(config: Mapping[str, Any]) -> int:
    """After how many layers a model with these config fields repeats itself; 1: all are alike.

    Raises `UserError` for a field that is no pattern.
    """
    for field in ("layers", "windows"):
        if config.get(field):
            return len(expand(config[field], f"model.{field}"))
    return 1


def windows(text: str) -> list[int | None]:
    """The windows of one period of layers, in tokens; None: all. Raises `UserError` for others."""

    def window(part: str) -> int | None:
        if part == ALL:
            return None
        if not re.fullmatch(r"0*[1-9][0-9]{0,17}", part):
            raise UserError(
                f"model.windows: {shown(repr(part), 40)} is neither a number of tokens, the token "
                f"itself included, nor {ALL!r}"
            )
        return int(part)

    return [window(part) for part in expand(text, "model.windows")]


def largest_window(config: Mapping[str, Any]) -> int | None:
    """The most tokens that a token sees in any layer of a model with these config fields; None: all
    that came before, or it is nothing that attends."""
    if not config.get("windows"):
        return config.get("window")
    found = windows(config["windows"])
    return None if None in found else max(window for window in found if window)
