"""Records, and the shapes that make documents of them."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from conf.schema import DataConf
from core.errors import UserError, shown
from data.documents import Document

ESCAPES = {"n": "\n", "t": "\t", "\\": "\\"}
"""What a template may write, after a backslash, for characters that a command line cannot hold."""


CONVERSATIONS = ("messages", "conversations")
"""Fields that hold a conversation as a list of messages."""


class Record(NamedTuple):
    """A JSON object, or a row of a table."""

    place: str
    """Where it is, e.g. `file:line`."""
    value: dict[str, Any]
    problem: str = ""
    """What is wrong with it, if it is none."""


class BadRecord(Exception):
    """Why no document can be made of a record."""


class Shape(Protocol):
    """Makes a document of a record."""

    @property
    def fields(self) -> Sequence[str] | None:
        """The fields that it looks at; None: all."""
        ...

    def document(self, record: Record) -> Document:
        """The document. Raises `BadRecord`."""
        ...


class TextShape:
    """The text of one field, or of several that a template joins."""

    def __init__(self, conf: DataConf) -> None:
        """Raises `UserError` for a template that is none."""
        self._template = parsed_template(conf.template) if conf.template else [("", conf.field)]

    @property
    def fields(self) -> list[str]:
        """The names in the template."""
        return [name for _, name in self._template if name is not None]

    def document(self, record: Record) -> Document:
        """Its text, UTF-8. Raises `BadRecord` if a field is missing or no text."""
        return Document.of("", utf8(self.text(record.value)), record.place)

    def text(self, value: dict[str, Any]) -> str:
        """The text of a record. Raises `BadRecord` if a field is missing or no text."""
        return "".join(
            text if name is None else text + self._text(value, name)
            for text, name in self._template
        )

    def _text(self, value: dict[str, Any], name: str) -> str:
        text = value_of(value, name)
        if isinstance(text, str):
            return text
        if len(self._template) > 1 and isinstance(text, int | float) and not isinstance(text, bool):
            return str(text)
        kind = "null" if text is None else type(text).__name__
        raise BadRecord(f"the field {name!r} is no text ({kind})")


def value_of(record: dict[str, Any], name: str) -> Any:
    """What a field holds; `a.b` is the field `b` of the object `a`, where no field has that name.

    Raises `BadRecord`.
    """
    value, place, rest = record, "", name
    while rest not in value:
        first, dot, rest = rest.partition(".")
        inside = value.get(first)
        if not dot or not isinstance(inside, dict):
            talks = any(field in record for field in CONVERSATIONS)
            hint = "; data.chat=rwkv, or another template, reads conversations" if talks else ""
            those = f"those of {place!r}" if place else "those it has"
            raise BadRecord(f"has no field {name!r}; {those}: {fields_of(value)}{hint}")
        value, place = inside, f"{place}.{first}" if place else first
    return value[rest]


def parsed_template(template: str) -> list[tuple[str, str | None]]:
    """Literal text and the name of the field after it, as `value_of` has it; None at the end.

    `{{` and `}}` are braces. Raises `UserError` if it names no field, or more than a name stands in
    braces.
    """
    template = re.sub(r"\\([nt\\])", lambda found: ESCAPES[found[1]], template)
    try:
        parts = [*string.Formatter().parse(template)]
    except ValueError as error:
        raise UserError(f"data.template={template!r}: {error}") from None
    if not any(name is not None for _, name, _, _ in parts):
        raise UserError(
            f"data.template={template!r} names no field, as '{{title}}\\n{{body}}' does"
        )
    for _, name, spec, conversion in parts:
        if name is not None and (not name or spec or conversion):
            raise UserError(f"data.template={template!r}: braces hold the name of a field alone")
    return [(text, name) for text, name, _, _ in parts]


def utf8(text: str) -> bytes:
    """Raises `BadRecord` for a text that is not Unicode."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise BadRecord("a text that is not Unicode") from None


def fields_of(value: dict[str, Any]) -> str:
    """The names of the fields that there are, for a message."""
    return ", ".join(map(shown, list(value)[:20])) or "none"
