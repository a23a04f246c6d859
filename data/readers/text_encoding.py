"""Texts in other encodings than UTF-8."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from pathlib import Path

from core.errors import UserError, shown
from core.parsing import Unreadable

_OF_PROGRAMS = {"undefined", "idna", "punycode", "unicode-escape", "raw-unicode-escape"}


def is_utf8(encoding: str) -> bool:
    """Whether it needs no conversion. Raises `UserError` if it is no encoding of texts."""
    try:
        codec = codecs.lookup(encoding)
    except (LookupError, ValueError):  # ValueError: a NUL in the name
        codec = None
    if codec is None or codec.name in _OF_PROGRAMS or not codec._is_text_encoding:
        raise UserError(
            f"data.encoding='{shown(encoding)}' is no encoding of texts, such as latin-1 or utf-16"
        )
    return codec.name == "utf-8"


def decoded(path: Path, blocks: Iterable[bytes], encoding: str) -> Iterator[str]:
    """The text in blocks that may end within a character. Raises `Unreadable`."""
    decoder = codecs.getincrementaldecoder(encoding)()
    done = 0
    try:
        for block in blocks:
            yield decoder.decode(block)
            done += len(block)
        yield decoder.decode(b"", final=True)
    except UnicodeError:
        raise Unreadable(path, f"is not {encoding} after byte {done:,}") from None
