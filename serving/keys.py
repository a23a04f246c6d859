"""Who may ask, and how much: the keys of a server, from a file of one or of many."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from core.errors import UserError, shown
from core.parsing import read_object, read_text

MOST_KEY = 1 << 12  # bytes of a file with one key
MOST_KEYS = 1 << 20  # bytes of a file with several
MOST_NAME = 64  # characters
OPEN = "everybody"
"""Name of the account of a server without keys."""
ONLY = "key"
"""Name of the account of a server with one key."""


@dataclass(frozen=True)
class Budget:
    """What a key may use, ever; None: any amount."""

    tokens: int | None = None
    """Tokens of prompts and answers together."""
    cost: float | None = None


class Keys:
    """The keys of a server by the names of whom they belong to; none: everybody may ask."""

    def __init__(
        self, keys: Mapping[str, str] | None = None, budgets: Mapping[str, Budget] | None = None
    ) -> None:
        """`keys` are secrets by name, and `budgets` those of some of the names."""
        self._keys = {name: secret.encode() for name, secret in (keys or {}).items()}
        self.budgets = {**(budgets or {})}

    def name_of(self, given: str) -> str | None:
        """Whose key this is; None: nobody's. It takes as long whichever it is."""
        if not self._keys:
            return OPEN
        found, sent = None, given.encode()
        for name, secret in self._keys.items():
            if hmac.compare_digest(sent, secret):
                found = name
        return found


def read_key(path: Path) -> Keys:
    """The one key in a file, on a line. Raises `UserError` if there is none."""
    try:
        key = read_text(path, MOST_KEY).strip()
    except UserError as error:
        raise UserError(f"key_file={error}") from None
    if not _is_key(key):
        raise UserError(f"key_file={path}: holds no key, a line of ASCII characters")
    return Keys({ONLY: key})


def read_keys(path: Path) -> Keys:
    """The keys in a file of JSON: `{"NAME": {"key": "...", "tokens": 1000000, "cost": 5.0}}`.

    Budgets may be left out. Raises `UserError` for a file that says anything else.
    """
    try:
        said = read_object(path, MOST_KEYS)
    except UserError as error:
        raise UserError(f"keys_file={error}") from None
    keys: dict[str, str] = {}
    budgets: dict[str, Budget] = {}
    if not said:
        raise UserError(f"keys_file={path}: holds no key")
    for name, about in said.items():
        if problem := _problem(name, about, keys):
            raise UserError(f"keys_file={path}: {shown(name)}: {problem}")
        keys[name] = about["key"]
        budgets[name] = Budget(about.get("tokens"), about.get("cost"))
    return Keys(keys, budgets)


def _problem(name: str, about: Any, keys: Mapping[str, str]) -> str | None:
    """What is wrong with an entry of a file, beside those before it."""
    if not 0 < len(name) <= MOST_NAME or not name.isprintable():
        return f"a name has 1 to {MOST_NAME} printable characters"
    if not isinstance(about, dict) or not {"key"} <= about.keys() <= {"key", "tokens", "cost"}:
        return "expected an object with key, and with tokens and cost if they are limited"
    key, tokens, cost = about["key"], about.get("tokens"), about.get("cost")
    if not isinstance(key, str) or not _is_key(key):
        return "its key is no text of ASCII characters without spaces around it"
    if key in keys.values():
        return "another name has the same key"
    if tokens is not None and (type(tokens) is not int or tokens < 0):
        return "tokens is a whole number of at least 0"
    if cost is not None and (type(cost) not in (int, float) or not isfinite(cost) or cost < 0):
        return "cost is a number of at least 0"
    return None


def _is_key(text: str) -> bool:
    return bool(text) and text.isascii() and text.isprintable() and text == text.strip()
