"""Reading back what was written: the one way in which JSON, JSON lines and YAML are opened.

A file may be damaged, foreign or hostile. Only a regular file is opened (a pipe or a device would
hang), no more of it is read than its kind can need, it must be UTF-8, and what it holds are plain
values, nested no deeper than people write. Anything else is `Unreadable`: one message with the file
and, where there is one, the line.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from core.errors import UserError

MOST_JSON = 16 << 20  # bytes
MOST_YAML = 256 << 10  # bytes, which take a second
LONGEST_LINE = 1 << 20  # bytes of a row
MOST_SKIPPED = 512 << 20  # bytes of a line that is too long; a sparse file may have terabytes
DEEPEST = 50  # lists and objects in each other
_BLOCK = 1 << 16  # bytes
LARGEST = 10**300  # of a whole number: any is also a float
_ENDLESS = re.compile(r"[-+]?[0-9_]{301,}")


class Unreadable(UserError):
    """A file that cannot be read back: `path`, and why in `reason`, line included."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason


class Missing(Unreadable):
    """Nothing is there, not even a broken link."""


@contextmanager
def regular(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading. Raises `Missing` or `Unreadable`, never waits."""
    try:
        kind = path.stat().st_mode  # before it is opened: opening a device may do something
        if not stat.S_ISREG(kind):
            raise Unreadable(path, f"{_kind(kind)}, not a file")
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        kind = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(kind):  # it has been replaced meanwhile
            os.close(descriptor)
            raise Unreadable(path, f"{_kind(kind)}, not a file")
    except (FileNotFoundError, NotADirectoryError):  # the latter: a folder above is a file
        if path.is_symlink():
            raise Unreadable(path, "a link that leads nowhere") from None
        raise Missing(path, "no such file") from None
    except (OSError, ValueError) as error:  # a loop of links, no permission, a NUL in the name
        raise Unreadable(path, f"cannot be opened ({_reason(error)})") from None
    with os.fdopen(descriptor, "rb") as file:
        try:
            yield file
        except OSError as error:
            raise Unreadable(path, f"cannot be read ({_reason(error)})") from None


def read_bytes(path: Path, most: int = MOST_JSON) -> bytes:
    """The whole file. Raises `Unreadable` if it holds more than `most` bytes."""
    with regular(path) as file:
        # What is asked for is allocated first. The kernel's own files say that they are empty.
        expected = min(most, max(os.fstat(file.fileno()).st_size, _BLOCK))
        content = file.read(expected + 1)
        if content is not None and expected < len(content) <= most:
            content += file.read(most + 1 - len(content)) or b""
    if content is None:  # some files of the kernel's wait for more, and this one does not
        raise Unreadable(path, "a file that waits for somebody to write into it")
    if len(content) > most:
        raise Unreadable(path, f"larger than {most:,} bytes: no such file of ours is")
    return content


def read_text(path: Path, most: int = MOST_JSON) -> str:
    """The whole file, which must be UTF-8."""
    content = read_bytes(path, most)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise Unreadable(path, f"line {line}: not UTF-8") from None


def read_json(path: Path, most: int = MOST_JSON) -> Any:
    """What a JSON file holds. Raises `Unreadable`."""
    text = read_text(path, most)
    try:
        return parse_json(text)
    except ValueError as error:
        raise Unreadable(path, str(error)) from None


def read_object(path: Path, most: int = MOST_JSON) -> dict[str, Any]:
    """Read a JSON file that must hold an object; see `read_json`."""
    return _object(path, read_json(path, most))


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, without tags and anchors: those can run code or fill memory."""
    import yaml  # here, because benchmarks of a GPU need nothing but torch

    text = read_text(path, MOST_YAML)
    try:
        # Refuse anchors, a few lines of which expand to gigabytes, and what is nested too deeply.
        depth = 0
        for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            if getattr(event, "anchor", None) is not None:
                raise yaml.MarkedYAMLError(None, None, "an anchor or alias", event.start_mark)
            plain_text = isinstance(event, yaml.ScalarEvent) and event.implicit[0]
            if plain_text and _ENDLESS.fullmatch(event.value):
                line = event.start_mark.line + 1
                raise ValueError(f"line {line}: a number of {len(event.value):,} digits")
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if depth > DEEPEST:
                raise ValueError(f"nested more than {DEEPEST} deep")
        tree = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        return _object(path, plain(tree))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        reason = f"{where}not YAML ({error.problem or error.context})"
        raise Unreadable(path, " ".join(reason.split())) from None
    except (ValueError, TypeError, OverflowError, RecursionError, yaml.YAMLError) as error:
        raise Unreadable(path, f"not a configuration ({_reason(error)})") from None


def parse_json(text: str) -> Any:
    """The plain value in a text. Raises `ValueError` that says in a few words what is wrong."""
    try:
        return plain(json.loads(text, **_STRICT))
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}: " if error.lineno > 1 else ""
        raise ValueError(f"{line}not JSON ({error.msg} at character {error.colno})") from None
    except RecursionError:
        raise ValueError(f"nested more than {DEEPEST} deep") from None


@dataclass(frozen=True)
class Line:
    """One line of a file of rows: its object, or what is wrong with it."""

    number: int
    """From 1."""
    value: dict[str, Any] | None
    problem: str = ""
    ended: bool = True
    """False where the file stops before a newline: the last line of a killed process."""


def read_lines(path: Path, longest: int = LONGEST_LINE) -> Iterator[Line]:
    """Every line, of at most `longest` bytes, of a file with one JSON object in each.

    A line that is too long is left out; where its end is not found within `MOST_SKIPPED` bytes, so
    is all that follows. Raises `Missing` or `Unreadable` where the file is none that can be read.
    """
    with regular(path) as file:
        number = 0
        while content := file.readline(longest + 1):
            number += 1
            ended = content.endswith(b"\n")
            if len(content) > longest:
                skipped = 0
                while not ended and skipped < MOST_SKIPPED and (rest := file.readline(longest)):
                    ended, skipped = rest.endswith(b"\n"), skipped + len(rest)
                if not ended and file.read(1):
                    reason = f"has no end within {MOST_SKIPPED:,} bytes; nothing after it is read"
                    yield Line(number, None, reason)
                    return
                yield Line(number, None, f"longer than {longest:,} bytes", ended)
                continue
            try:
                value = parse_json(content.rstrip(b"\r\n").decode())
            except UnicodeDecodeError:
                yield Line(number, None, "not UTF-8", ended)
            except ValueError as error:
                yield Line(number, None, str(error), ended)
            else:
                if isinstance(value, dict):
                    yield Line(number, value, ended=ended)
                else:
                    yield Line(number, None, f"{_name(value)}, not an object", ended)


def _object(path: Path, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Unreadable(path, f"holds {_name(value)}, not an object of named values")
    return value


def _name(value: Any) -> str:
    names = {"NoneType": "nothing", "str": "a text", "list": "a list", "bool": "true or false"}
    return names.get(type(value).__name__, "a number")


def _whole(text: str) -> int:
    value = int(text) if len(text) < 310 else LARGEST
    if abs(value) >= LARGEST:
        raise ValueError(f"a number of {len(text):,} digits")
    return value


def _number(text: str) -> float:
    value = float(text)
    if abs(value) == float("inf"):
        raise ValueError(f"the number {text:.40} is too large")
    return value


def _named(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name, value in pairs:
        if name in members:
            raise ValueError(f"the name {name[:40]!r} stands there twice")
        members[name] = value
    return members


_STRICT: dict[str, Any] = {
    "parse_int": _whole,
    "parse_float": _number,
    "object_pairs_hook": _named,
}


def plain(tree: Any) -> Any:
    """`tree`, if it holds nothing but JSON's values, names that are text, and is not too deep.

    Raises `ValueError` that says in a few words what is wrong.
    """
    level = [tree]
    for _ in range(DEEPEST + 1):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                if not all(isinstance(name, str) for name in value):
                    raise ValueError("a name that is not text")
                below += value
                below += value.values()
            elif isinstance(value, list):
                below += value
            elif isinstance(value, str):
                try:
                    value.encode()
                except UnicodeEncodeError:  # halves of characters, which nothing can print or write
                    raise ValueError("a text that is not Unicode") from None
            elif isinstance(value, int):
                if abs(value) >= LARGEST:
                    raise ValueError("a number too large")
            elif value is not None and not isinstance(value, float):
                raise ValueError(f"a value of the type {type(value).__name__}")
        if not below:
            return tree
        level = below
    raise ValueError(f"nested more than {DEEPEST} deep")


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a pipe" if stat.S_ISFIFO(mode) else "a device or socket"


def _reason(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) else str(error)
    return " ".join((text or type(error).__name__).split())[:200]


def current_names(values: dict[str, Any], renamed: Mapping[str, str]) -> dict[str, Any]:
    """The values under the names that their keys have today, `renamed` being old to new.

    An old name beside its new one stays, for whoever checks the names.
    """
    return {
        name if renamed.get(name, name) in values else renamed.get(name, name): value
        for name, value in values.items()
    }
