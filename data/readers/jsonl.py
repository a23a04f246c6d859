"""JSON lines, plain or compressed, and JSON files that are one array: a record for each object."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from conf.schema import DataConf
from core.parsing import Unreadable, parse_json, plain
from data.readers import file_kinds
from data.readers.compressed import opened
from data.readers.records import RecordFiles
from data.readers.shapes import Record
from data.readers.text_encoding import decoded, is_utf8

LONGEST = 256 << 20
"""Bytes of a line, or characters of an element of an array."""
BLOCK = 1 << 20
"""Bytes read at once."""
_SPACE = re.compile(r"\s*")
_CUT = "the array has no end: it is cut short"


def jsonl(conf: DataConf) -> RecordFiles:
    """The documents in the files that `data.paths` names."""
    return RecordFiles(conf, records)


def records(path: Path, conf: DataConf, fields: Sequence[str] | None = None) -> Iterator[Record]:
    """Every object of a file, with all of its fields; a problem where a line holds none.

    Raises `Unreadable` for what is no file, is of another kind, damaged, in another encoding, or
    never ends a line.
    """
    del fields  # a line is read whole
    with opened(path) as file:
        blocks = _utf8(path, file, conf.encoding)
        first = next(blocks, b"").removeprefix(codecs.BOM_UTF8)
        if other := file_kinds.marked(first):
            raise Unreadable(path, f"is {other}")
        if first.lstrip()[:1] == b"[":
            yield from _elements(path, chain([first], blocks))
        else:
            other = "" if b"{" in first else file_kinds.textual(Path(path.stem), first)
            hint = f"; the file seems to be {other}" if other else ""
            yield from _lines(path, chain([first], blocks), hint)


def _utf8(path: Path, file: BinaryIO, encoding: str) -> Iterator[bytes]:
    """The content in blocks, which may end within a character."""
    blocks = iter(lambda: file.read(BLOCK) or b"", b"")
    if is_utf8(encoding):
        yield from blocks
    else:
        yield from (text.encode() for text in decoded(path, blocks, encoding))


def _lines(path: Path, blocks: Iterable[bytes], hint: str) -> Iterator[Record]:
    """A record for each line; `hint` says what the file may be, where a line is no JSON."""
    number = 0
    for number, line in enumerate(_split(path, blocks), start=1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            yield _record(place, parse_json(line.decode()))
        except UnicodeDecodeError:
            yield Record(place, {}, "not UTF-8 (data.encoding=latin-1 and others convert it)")
        except ValueError as error:
            yield Record(place, {}, f"{error}{hint}")


def _split(path: Path, blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of a file that comes in blocks, the last one with or without a newline."""
    pending: list[bytes] = []  # joined once the line ends
    held = number = 0
    for block in blocks:
        first, *others = block.split(b"\n")
        pending.append(first)
        held += len(first)
        if held > LONGEST:
            raise Unreadable(path, f"line {number + 1} is longer than {LONGEST:,} bytes")
        if others:
            *whole, last = [b"".join(pending), *others]
            number += len(whole)
            yield from whole
            pending, held = [last], len(last)
    if held:
        yield b"".join(pending)


class _Array:
    """The text of an array, of which one element at a time is in memory."""

    def __init__(self, path: Path, blocks: Iterable[bytes]) -> None:
        self._path = path
        self._pieces = filter(None, decoded(path, blocks, "utf-8"))
        self._decoder = json.JSONDecoder()
        self._text, self._place = "", 0

    def character(self) -> str:
        """The next that is no space, and goes on behind it; empty at the end."""
        character = self.peek()
        self._place += len(character)
        return character

    def peek(self) -> str:
        """The next that is no space; empty at the end."""
        while True:
            space = _SPACE.match(self._text, self._place)
            assert space is not None  # it matches nothing too
            self._place = space.end()
            if self._place < len(self._text):
                return self._text[self._place]
            self._text, self._place = next(self._pieces, ""), 0
            if not self._text:
                return ""

    def value(self, number: int) -> Any:
        """The element that begins here. Raises `Unreadable`."""
        while True:
            try:
                value, self._place = self._decoder.raw_decode(self._text, self._place)
            except (ValueError, RecursionError) as error:
                rest = self._text[self._place :]  # the element may go on: read as much again
                more = self._gather(len(rest))
                if not more or len(rest) > LONGEST:
                    problem = error if rest else _CUT
                    raise Unreadable(
                        self._path, f"element {number}: not JSON ({problem})"
                    ) from None
                self._text, self._place = rest + more, 0
            else:
                return value

    def _gather(self, size: int) -> str:
        """The next pieces, until they have `size` characters."""
        parts = [next(self._pieces, "")]
        while parts[-1] and sum(map(len, parts)) < size:
            parts.append(next(self._pieces, ""))
        return "".join(parts)


def _elements(path: Path, blocks: Iterable[bytes]) -> Iterator[Record]:
    """The objects of an array, of which one at a time is in memory."""
    array = _Array(path, blocks)
    array.character()  # its bracket
    number, character = 1, array.peek()
    if character == "]":
        array.character()
    while character != "]":
        array.peek()  # so that it begins where the element does
        value = array.value(number)
        try:
            yield _record(f"{path}: element {number}", plain(value))
        except ValueError as error:
            yield Record(f"{path}: element {number}", {}, str(error))
        number, character = number + 1, array.character()
        if character not in (",", "]"):
            problem = "no comma before it" if character else _CUT
            raise Unreadable(path, f"element {number}: not JSON ({problem})")
    if array.peek():
        raise Unreadable(
            path,
            "not JSON (more behind the end of the array): give one array, or a line per record",
        )


def _record(place: str, value: Any) -> Record:
    if isinstance(value, dict):
        return Record(place, value)
    return Record(place, {}, "is no object with named fields")
