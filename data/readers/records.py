"""Records, of whatever format they come, and the documents that are made of them.

A format is a function from a file to its records (`data.readers.jsonl`, `data.readers.tables`); a
shape makes a document of a record. Neither knows the other.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from rich.console import Console

from conf.schema import DataConf
from core.errors import UserError, shown
from data.documents import Document
from data.readers.paths import NamedFiles

ESCAPES = {r"\n": "\n", r"\t": "\t", r"\\": "\\"}
"""What a template may write for characters that a command line cannot hold."""


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


Format = Callable[[Path, DataConf, Sequence[str] | None], Iterator[Record]]
"""The records of a file, with these fields at least; raises `UserError` if it is no such file."""


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
        whole = "".join(
            text if name is None else text + self._text(record.value, name)
            for text, name in self._template
        )
        try:
            return Document.of("", whole.encode(), record.place)
        except UnicodeEncodeError:
            raise BadRecord("a text that is not Unicode") from None

    def _text(self, value: dict[str, Any], name: str) -> str:
        if name not in value:
            there = ", ".join(map(shown, list(value)[:20])) or "none"
            raise BadRecord(f"has no field {name!r}; those it has: {there}")
        text = value[name]
        if isinstance(text, str):
            return text
        if len(self._template) > 1 and isinstance(text, int | float) and not isinstance(text, bool):
            return str(text)
        kind = "null" if text is None else type(text).__name__
        raise BadRecord(f"the field {name!r} is no text ({kind})")


def parsed_template(template: str) -> list[tuple[str, str | None]]:
    """Literal text and the name of the field after it; None at the end.

    `{{` and `}}` are braces. Raises `UserError` if it names no field, or more than a name stands in
    braces.
    """
    for escape, character in ESCAPES.items():
        template = template.replace(escape, character)
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


def shape_of(conf: DataConf) -> Shape:
    """The shape that the configuration asks for. Raises `UserError`."""
    return TextShape(conf)


class Documents:
    """What a corpus of records becomes, one file after the other, with bad ones left out or told.

    Counts what it leaves out (`data.on_bad=skip`), and says so once.
    """

    def __init__(self, conf: DataConf) -> None:
        """Raises `UserError` for a shape that is none."""
        self._conf, self.shape = conf, shape_of(conf)
        self._told, self._first = False, ""

    def of(self, records: Iterable[Record]) -> Iterator[Document]:
        """The documents of some records. Raises `UserError` with the place of a bad one."""
        for record in records:
            try:
                if record.problem:
                    raise BadRecord(record.problem)
                document = self.shape.document(record)
            except BadRecord as problem:
                if self._conf.on_bad != "skip":
                    raise UserError(
                        f"{record.place}: {problem} (data.on_bad=skip leaves such records out)"
                    ) from None
                self._first = self._first or f"{record.place}: {problem}"
                self._bad += 1
            else:
                self._good += 1
                yield document

    def begin(self) -> None:
        """Count anew: the corpus is read from its beginning."""
        self._good = self._bad = 0
        self._first = ""

    def end(self) -> None:
        """Tell how many were left out, once. Raises `UserError` if all were."""
        if self._bad and not self._good:
            raise UserError(f"none of {self._bad:,} records can be used: {self._first}")
        if self._bad and not self._told:
            self._told = True
            total = self._good + self._bad
            line = f"left out {self._bad:,} of {total:,} records; the first: {self._first}"
            Console(stderr=True, highlight=False, soft_wrap=True).print(line, markup=False)


class RecordFiles:
    """The documents in files of one format that `data.paths` names."""

    verbatim = False

    def __init__(self, conf: DataConf, read: Format) -> None:
        """Raises `UserError` if nothing is named, or the shape is none."""
        self._conf, self._read = conf, read
        self._named, self._documents = NamedFiles(conf), Documents(conf)

    @property
    def files(self) -> list[Path]:
        """The files, each of many documents; none if something is wrong with the paths."""
        return self._named.files

    def __iter__(self) -> Iterator[Document]:
        self._named.refuse()
        self._documents.begin()
        for path in self._named.paths:
            records = self._read(path, self._conf, self._documents.shape.fields)
            yield from self._documents.of(records)
        self._documents.end()
