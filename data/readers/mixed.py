"""Any mix of files and folders, each file read as what it holds."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, partial
from pathlib import Path

from conf.schema import DataConf
from core.parsing import regular
from data.documents import Document
from data.readers import binidx, compressed, file_kinds, jsonl, tables, token_files, tokens
from data.readers.hub import INFO, SPLITS, STATE
from data.readers.paths import NamedFiles
from data.readers.records import Documents
from data.readers.text_encoding import is_utf8
from data.text import TextTokenizer

HEAD = 1 << 16  # bytes that say what a file is


class MixedFiles:
    """The documents in all files that `data.paths` names: texts, records, tables and token ids.

    No document has a name, so the same ones are the same corpus in whichever format they lie.
    """

    verbatim = False

    def __init__(self, conf: DataConf) -> None:
        """Raises `UserError` if nothing is named, or the shape of records is none."""
        self._conf, self._documents = conf, Documents(conf)
        self._named = NamedFiles(conf, folders=True)

    @property
    def files(self) -> list[str]:
        """All files that decide the documents; none if something is wrong with the paths."""
        files = tokens.with_indices(self._named.files)
        return [*files, *tokens.vocabulary_file(self._conf)] if files else []

    @property
    def left_out(self) -> str:
        """What was said of the records that were left out."""
        return self._documents.left_out

    def __iter__(self) -> Iterator[Document]:
        self._named.refuse()
        self._documents.begin()
        for path in self._named.paths:
            if not _describes(path):
                yield from self._read(path)
        self._named.refuse()
        self._documents.end()

    def _read(self, path: Path) -> Iterator[Document]:
        conf = self._conf
        kind = kind_of(path, conf)
        if kind == "tokens":
            yield from tokens.documents(path, conf, self._tokenizer)
        elif kind == "text":
            parts = partial(self._named.sources.parts, path, conf.markup, conf.encoding)
            yield Document("", parts, str(path))
        else:
            read = tables.records if kind == "tables" else jsonl.records
            yield from self._documents.of(read(path, conf, self._documents.shape.fields))

    @cached_property
    def _tokenizer(self) -> TextTokenizer:
        return tokens.tokenizer_of(self._conf)


def kind_of(path: Path, conf: DataConf) -> str:
    """The reader of a file, by what it holds: text, jsonl, tables or tokens.

    What no other reader takes is text, which refuses it by its name if it is none. Raises
    `Unreadable` for what is no file.
    """
    with regular(path) as file:
        head = file.read(HEAD + 1) or b""
    if head.startswith((tables.PARQUET, tables.ARROW, tables.STREAM)):
        return "tables"
    is_index = path.suffix == ".idx" and head.startswith(binidx.MAGIC)
    if is_index or head.startswith(token_files.NUMPY) or tokens.has_index(path):
        return "tokens"
    name = path.name
    if compressed.is_compressed(head):
        name = path.stem
        with compressed.opened(path) as file:
            head = file.read(HEAD + 1)
    elif conf.markup:
        return "text"
    encoding = "utf-8" if is_utf8(conf.encoding) else conf.encoding
    content = head[:HEAD].decode(encoding, errors="ignore")
    kind = file_kinds.markup(name, content, whole=len(head) <= HEAD) or ""
    return file_kinds.READERS.get(kind, "text")


def _describes(path: Path) -> bool:
    """Whether a file says something of a saved data set, whose documents are beside or below it."""
    return path.name in (SPLITS, STATE, INFO) and (
        path.name == SPLITS or all((path.parent / name).is_file() for name in (STATE, INFO))
    )
