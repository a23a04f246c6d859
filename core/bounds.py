"""Whether a value is one that a configuration key may have, and the words that say why not.

A command line and the words of a part of a mixture are checked by the same functions. `metadata` is
that of a field of the schema: `choices`, `low`, `high`, `aliases`, `verbatim` and `path`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from math import isfinite
from typing import Any, get_args, get_origin

from core.errors import UNPRINTABLE

PATH, NAME = 4095, 255  # bytes, on Linux
LONGEST = 80  # characters of a word that a message shows
INTEGER, NUMBER, TRUTH = "expected an integer", "expected a number", "expected true or false"
TEXT, VALUES = "expected a text", "expected a list of single values"
_KINDS = {int: INTEGER, float: NUMBER, bool: TRUTH, str: TEXT}


def value_problems(name: str, value: Any, metadata: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the value of the key `name`, of the right type: each of a list's."""
    if value is None:  # where that is allowed it means "not set"
        return
    choices, low, high = (metadata.get(bound) for bound in ("choices", "low", "high"))
    for element in value if isinstance(value, list) else [value]:
        if isinstance(element, str) and (problem := text_problem(element, metadata)):
            yield f"{name}={beginning(element)}: {problem}"
            continue
        if isinstance(element, float) and not isfinite(element):
            yield f"{name}={element}: must be a finite number"
            continue
        if choices and element not in choices:
            hint = nearest(str(element), choices, metadata["aliases"])
            yield f"{name}={element!r}: not one of its values{hint}"
        if low is not None and element < low:
            yield f"{name}={element}: must be at least {low}"
        if high is not None and element > high:
            yield f"{name}={element}: must be at most {high}"


def beginning(text: str) -> str:
    """The first characters of a word, in quotes, as a message can show them."""
    return repr(text if len(text) <= LONGEST else f"{text[:LONGEST]}...")


def text_problem(text: str, metadata: Mapping[str, Any]) -> str | None:
    """What is wrong with the value of a key as a text or a path."""
    if metadata["verbatim"] and not metadata["path"]:
        return None
    if UNPRINTABLE.search(text):
        return "must be UTF-8 without control characters"
    if metadata["path"]:
        if len(text.encode()) > PATH or any(len(part.encode()) > NAME for part in text.split("/")):
            return f"a path may have {PATH:,} bytes, and {NAME} between two slashes"
    elif len(text) > NAME:
        return f"must be at most {NAME} characters long"
    return None


def type_problem(value: Any, kind: Any) -> str | None:
    """What should stand there if `value` is not of the type `kind`, that of a key."""
    inner = get_args(kind)
    if kind is Any:
        return None
    if get_origin(kind) is list:
        right = isinstance(value, list) and not any(type_problem(one, inner[0]) for one in value)
        return None if right else VALUES
    if get_origin(kind) is dict:
        return None if isinstance(value, dict) else "expected names with values"
    if inner:  # a union, say with None
        problems = [type_problem(value, each) for each in inner]
        return None if None in problems else problems[0]
    if isinstance(value, bool) and kind is not bool:
        return _KINDS[kind]
    right = isinstance(value, int | float if kind is float else kind)
    return None if right else _KINDS.get(kind, f"expected {kind}")


def nearest(word: str, choices: Sequence[str], aliases: Mapping[str, str] | None = None) -> str:
    """`; did you mean X?` or `; choose one of X, Y`, to end a message with.

    `aliases` are other people's words, with the choice that means the same.
    """
    meant = (aliases or {}).get(word.lower())
    if meant in choices:
        return f"; did you mean {meant!r}?"
    close = get_close_matches(word, choices, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    shown = [choice or "'' (nothing)" for choice in choices]
    return f"; choose one of {', '.join(shown)}" if choices else ""
