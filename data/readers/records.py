"""Records, of whatever format they come, and the documents that are made of them.

A format is a function from a file to its records (`data.readers.jsonl`, `data.readers.tables`); a
shape makes a document of a record (`data.readers.shapes`, `data.readers.conversations`). Neither
knows the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from conf.schema import DataConf
from core.errors import UserError
from data.documents import Document
from data.notices import say_once
from data.readers.conversations import ConversationShape, PairShape
from data.readers.paths import NamedFiles
from data.readers.shapes import BadRecord, Record, Shape, TextShape

Format = Callable[[Path, DataConf, Sequence[str] | None], Iterator[Record]]
"""The records of a file, with these fields at least; raises `UserError` if it is no such file."""


def shape_of(conf: DataConf) -> Shape:
    """The shape that the configuration asks for. Raises `UserError`."""
    if conf.chat:
        return ConversationShape(conf)
    if conf.answer or conf.prompt:
        return PairShape(conf)
    return TextShape(conf)


class Documents:
    """What a corpus of records becomes, one file after the other, with bad ones left out or told.

    Counts what it leaves out (`data.on_bad=skip`), and says so once.
    """

    def __init__(self, conf: DataConf) -> None:
        """Raises `UserError` for a shape that is none."""
        self._conf, self.shape = conf, shape_of(conf)
        self._first = ""
        self.left_out = ""
        """What was said of the records that were left out in the last reading."""

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

    def in_files(self, paths: Iterable[Path], read: Format) -> Iterator[Document]:
        """All documents of a corpus of files of one format."""
        self.begin()
        for path in paths:
            yield from self.of(read(path, self._conf, self.shape.fields))
        self.end()

    def begin(self) -> None:
        """Count anew: the corpus is read from its beginning."""
        self._good = self._bad = 0
        self._first = self.left_out = ""

    def end(self) -> None:
        """Tell how many were left out, once. Raises `UserError` if all were."""
        if self._bad and not self._good:
            raise UserError(f"none of {self._bad:,} records can be used: {self._first}")
        if self._bad:
            total = self._good + self._bad
            first = self._first
            self.left_out = f"left out {self._bad:,} of {total:,} records; the first: {first}"
            say_once(self.left_out)


class RecordFiles:
    """The documents in files of one format that `data.paths` names."""

    verbatim = False

    def __init__(self, conf: DataConf, read: Format) -> None:
        """Raises `UserError` if nothing is named, or the shape is none."""
        self._read = read
        self._named, self._documents = NamedFiles(conf), Documents(conf)

    @property
    def left_out(self) -> str:
        """What was said of the records that were left out."""
        return self._documents.left_out

    @property
    def files(self) -> list[str]:
        """The files, each of many documents; none if something is wrong with the paths."""
        return self._named.files

    def __iter__(self) -> Iterator[Document]:
        self._named.refuse()
        yield from self._documents.in_files(self._named.paths, self._read)
