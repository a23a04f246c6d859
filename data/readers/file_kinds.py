"""Telling plain text from the files that texts are kept in: records, markup, archives.

Trained on as they are, they would teach a model their markup. A file is judged by what it holds
and, as half of these formats look like text, by its suffix too.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from data.text import END_OF_TEXT

HEAD = 1 << 16  # characters looked at, where the beginning decides
LITTLE = 64  # bytes: fewer may be text by chance
SNIPPET = 1 << 12  # characters of JSON that a text may well consist of
PARSED = 1 << 24  # characters of JSON; as objects they can take fifty times their size
RECORDS = 5  # of a table, before lines of equal shape are no coincidence

_SUFFIXES = {
    **dict.fromkeys((".jsonl", ".ndjson"), "JSON lines"),
    **dict.fromkeys((".json", ".ipynb"), "JSON"),
    ".csv": "CSV",
    ".tsv": "TSV",
    **dict.fromkeys((".html", ".htm", ".xhtml"), "HTML"),
    ".xml": "XML",
    **dict.fromkeys((".pkl", ".pickle"), "a pickle"),
}

READERS = {"JSON lines": "jsonl", "JSON": "jsonl"}
"""The reader of a kind of records."""
_UNPACK = "unpack it, or data=jsonl if there are JSON lines in it"
_BEGINNINGS = {  # of files that are not text
    b"PAR1": "a Parquet file: data=tables reads it",
    b"ARROW1": "an Arrow file: data=tables reads it",
    b"\xff\xff\xff\xff": "a stream of Arrow's, perhaps: data=tables reads those",
    b"FEA1": "a Feather file of version 1: write it again as version 2, for data=tables",
    b"MMIDIDX\0\0": "the index of a binidx: data=tokens reads it with its .bin",
    b"\x1f\x8b": f"compressed with gzip: {_UNPACK}",
    b"BZh": f"compressed with bzip2: {_UNPACK}",
    b"\xfd7zXZ\0": f"compressed with xz: {_UNPACK}",
    b"\x28\xb5\x2f\xfd": f"compressed with zstd: {_UNPACK}",
    b"PK\x03\x04": "a ZIP archive (or a document in one)",
    b"%PDF-": "a PDF: convert it to text",
    b"\x93NUMPY": "a NumPy array: data=tokens reads those of token ids",
    b"SQLite format 3\0": "an SQLite database",
    b"\x89HDF\r\n": "an HDF5 file",
    b"\xff\xfe": "UTF-16: data.encoding=utf-16 converts it",
    b"\xfe\xff": "UTF-16: data.encoding=utf-16 converts it",
    **{b"\x80" + bytes([protocol]): "a pickle" for protocol in range(2, 6)},
}


def marked(content: bytes) -> str:
    """What the mark at the beginning of a file says that it is, with its reader; or nothing."""
    return next((kind for start, kind in _BEGINNINGS.items() if content.startswith(start)), "")


def textual(path: Path, head: bytes) -> str:
    """What a file is that begins so and holds text, with its reader; nothing if it holds none.

    A few bytes say nothing.
    """
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)  # the end may be cut
    except UnicodeDecodeError:
        return ""
    if len(head) < LITTLE or _NEVER_TEXT.search(head):
        return ""
    kind = markup(path.name, text, whole=False)
    if kind is None:
        return "plain text: data=text reads it"
    return f"{kind}: data={READERS[kind]} reads it" if kind in READERS else kind


def binary(path: Path, content: bytes) -> str:
    """What a file is that is not UTF-8 text."""
    if kind := marked(content):
        return kind
    if _NEVER_TEXT.search(content[:HEAD]):
        ids = path.suffix == ".bin"
        return "binary: data=tokens reads token ids" if ids else "binary, or compressed"
    return "in another encoding, perhaps: data.encoding=latin-1, or its name, converts it"


def markup(name: str, text: str, whole: bool = True) -> str | None:
    """What the file called `name` is, if it holds records or markup; None for plain text.

    Without `whole`, `text` is its beginning and its end.
    """
    if not text.strip():
        return None
    text = text.removeprefix("\ufeff")
    for kind, holds in _KINDS.items():
        if holds(text):
            return kind
    if not whole and _begins_json(text):
        return "JSON"
    return _SUFFIXES.get(Path(name).suffix.lower())


def separated(text: str) -> bool:
    """Whether end-of-text tokens stand between documents, rather than being spoken of."""
    matches = list(islice(_SEPARATOR.finditer(text), 2))
    at_an_end = (text[match.end() : match.end() + 1] in ("", "\n", "\r") for match in matches)
    return len(matches) > 1 or any(at_an_end)


def _json_lines(text: str) -> bool:
    if text[:HEAD].lstrip()[:1] not in ("{", "["):
        return False
    lines = [line for line in islice(io.StringIO(text), 20) if line.strip()]
    return len(lines) > 1 and all(isinstance(_parsed(line), dict | list) for line in lines)


def _json(text: str) -> bool:
    if text[:HEAD].lstrip()[:1] not in ("{", "[") or len(text) <= SNIPPET:
        return False
    return isinstance(_parsed(text), dict | list)


def _parsed(text: str) -> object:
    """What JSON a text is, or None; of one too long to be held as objects, whether it begins so."""
    if len(text) > PARSED:
        return [] if _begins_json(text) else None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _begins_json(text: str) -> bool:
    """Whether the head of a text, which may be cut anywhere, is an array or an object."""
    head, place = text[:HEAD], 0
    if head.lstrip()[:1] not in ("{", "["):
        return False
    while token := _JSON_TOKEN.match(head, place):
        place = token.end()
    rest = head[place:].strip()
    return rest[:1] == '"' or len(rest) < 6  # a string, a number or a word is cut


def _html(text: str) -> bool:
    head = text[:HEAD].lstrip()
    while head.startswith("<!--") and "-->" in head:
        head = head.partition("-->")[2].lstrip()
    return bool(re.match(r"<(?:!doctype\s+html|html)\b", head, re.IGNORECASE))


def _xml(text: str) -> bool:
    if re.match(r"\s*<\?xml\s", text[:HEAD]):
        return True
    opened = re.match(r"\s*<([A-Za-z][\w:.-]*)(?:\s[^<>]*)?>", text[:HEAD])
    return bool(opened and text[-HEAD:].rstrip().endswith(f"</{opened[1]}>"))


def _table(delimiter: str) -> Callable[[str], bool]:
    def holds(text: str) -> bool:
        head = text[:HEAD]
        if delimiter not in head[: head.find("\n") + 1]:
            return False
        whole = len(text) <= HEAD
        try:
            rows = [row for row in csv.reader(io.StringIO(head), delimiter=delimiter) if row]
        except csv.Error:
            return False
        rows = rows if whole else rows[:-1]  # the last is cut
        if len(rows) < RECORDS or len(rows[0]) < 2 or any(len(r) != len(rows[0]) for r in rows):
            return False
        # A name for every column; a sentence goes on after its comma with a space.
        named = len({*rows[0]} - {""}) == len(rows[0])
        # A bracket that is not closed was cut out of code at a comma.
        balanced = all(
            field.count(left) == field.count(right)
            for field in rows[0]
            for left, right in ("()", "[]", "{}")
        )
        return (
            named and balanced and not any(field.startswith(" ") for row in rows for field in row)
        )

    return holds


_NEVER_TEXT = re.compile(rb"[\x00-\x06\x0e-\x1a\x1c-\x1f]")
_JSON_TOKEN = re.compile(r'\s*(?:[][{},:]|"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*|true|false|null)')
_SEPARATOR = re.compile(rf"(?<![`'\"\\]){re.escape(END_OF_TEXT)}(?![`'\"\\])")
_KINDS: dict[str, Callable[[str], bool]] = {
    "JSON lines": _json_lines,
    "JSON": _json,
    "HTML": _html,
    "XML": _xml,
    "TSV": _table("\t"),
    "CSV": _table(","),
    "RTF": lambda text: text.startswith("{\\rtf"),
}
