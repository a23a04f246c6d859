"""What somebody types and what Hydra's grammar reads: paths, texts, and one value for a list."""

from __future__ import annotations

import glob
import re
import types
import typing
from collections.abc import Iterator
from dataclasses import Field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.errors import HydraException

from conf import schema

UNREADABLE = (HydraException, ValueError, ArithmeticError, RecursionError)
"""What Hydra's grammar raises; the last three of numbers and texts that Python cannot make."""
WILDCARDS = 3  # parts of a path in which they are looked up
UNSAFE = re.compile(r"""[\[\]{}'"$\\]""")  # what Hydra's grammar uses, so that it may be meant


def keys(node: type, prefix: str = "") -> Iterator[tuple[str, type, Field[Any]]]:
    """Dotted name, kind (`str` of `str | None`, `list` of `list[str]`) and field of every key."""
    hints = typing.get_type_hints(node)
    for item in fields(node):
        hint = hints[item.name]
        if isinstance(hint, types.UnionType):
            hint = next(
                argument for argument in typing.get_args(hint) if argument is not type(None)
            )
        if is_dataclass(hint):
            yield from keys(typing.cast(type, hint), f"{prefix}{item.name}.")
        elif item.metadata:
            yield f"{prefix}{item.name}", typing.get_origin(hint) or hint, item


def quoted(config_name: str, words: list[str], multirun: bool = False) -> list[str]:
    """The words as Hydra's grammar wants them.

    Verbatim keys are taken as typed, and so are texts that may have commas, unless there are quotes
    in them. Paths and names are, too, where the grammar would refuse them or read a number. A list
    may be given as its only element.
    """
    by_name = {name: (kind, item) for name, kind, item in keys(schema.SCRIPTS[config_name])}
    written = []
    for word in words:
        name, equals, text = word.partition("=")
        kind, item = by_name.get(name, (None, None))
        if item is None or not equals:
            written.append(word)
            continue
        override = None if item.metadata["verbatim"] else parsed(word)
        if item.metadata["verbatim"]:
            in_quotes = True
        elif item.metadata["commas"]:
            in_quotes = not {"'", '"'} & {*text}
        elif kind is list:
            written.append(f"{name}={_list(text, override, item, multirun)}")
            continue
        elif not item.metadata["typed"]:
            in_quotes = False
        elif override is None:
            in_quotes = _is_plain(text)
        elif override.is_sweep_override():
            in_quotes = not multirun and _exists(text)
        else:  # a number, or true
            value = override.value()
            in_quotes = not (value is None or isinstance(value, str | list | dict) or not text)
        written.append(f"{name}={_quote(text)}" if in_quotes else word)
    return written


def _list(text: str, override: Override | None, item: Field[Any], multirun: bool) -> str:
    is_path = item.metadata["typed"]
    if text.startswith("[") and text.endswith("]"):
        if override is not None or not is_path:
            return text
        readable = [
            _quote(part) if parsed(f"a={part}") is None and _is_plain(part) else part
            for part in _parts(text[1:-1])
        ]
        return f"[{','.join(readable)}]"
    if override is None:
        return f"[{_quote(text)}]" if is_path and _is_plain(text) else text
    if override.is_sweep_override():
        as_list = parsed(f"a=[{text}]")
        if is_path and not multirun and _exists(text):
            return f"[{_quote(text)}]"
        if (
            multirun
            and as_list is not None
            and isinstance(override.value(), ChoiceSweep)
            and item.metadata["typed"]
        ):
            return ",".join(f"[{part}]" if part[:1] != "[" else part for part in _parts(text))
        return text
    value = override.value()
    return text if value is None or isinstance(value, list | dict) or not text else f"[{text}]"


def parsed(word: str) -> Override | None:
    """The word as Hydra reads it, or None where it cannot."""
    try:
        return OverridesParser.create().parse_override(word)
    except UNREADABLE:
        return None


def _parts(text: str) -> list[str]:
    """Between the commas that stand outside of quotes."""
    return [part.strip() for part in re.findall(r"""(?:'[^']*'|"[^"]*"|[^,])+""", text)]


def _is_plain(text: str) -> bool:
    """Whether it can only be meant as it stands: files match it, as far as looking is quick."""
    if not UNSAFE.search(text) or _exists(text):
        return True
    pattern = _home(text) or text
    folder, deep, _ = pattern.partition("**")
    if deep:  # anything below
        return Path(folder).is_dir()
    if sum(map(glob.has_magic, pattern.split("/"))) > WILDCARDS:
        return False
    return next(glob.iglob(pattern), None) is not None  # noqa: PTH207 (absolute)


def _exists(text: str) -> bool:
    try:
        return Path(_home(text) or text).exists()
    except (OSError, ValueError):  # too long a name, or none
        return False


def _quote(text: str) -> str:
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # no interpolation
    text = re.sub(r"(\\*)'", r"\1\1\\'", text)
    text = re.sub(r"(\\+)$", r"\1\1", text)
    return f"'{text}'"


def expanded(conf: Any) -> Any:
    """The configuration with a leading `~` of every path replaced by the home folder."""
    changes = {}
    for item in fields(conf):
        value = getattr(conf, item.name)
        if is_dataclass(value):
            changes[item.name] = expanded(value)
        elif item.metadata.get("path"):
            several = isinstance(value, list)
            changes[item.name] = list(map(_home, value)) if several else _home(value)
    return replace(conf, **changes) if changes else conf


def _home(text: str | None) -> str | None:
    if text is None or not text.startswith("~"):
        return text
    try:
        return str(Path(text).expanduser())
    except RuntimeError:  # a user that does not exist, or no home at all
        return text
