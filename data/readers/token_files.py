"""Token ids in files: where they lie, and the documents that they are.

    X.npy                a one-dimensional array of whole numbers
    X.bin                nothing but ids (nanoGPT), or 1,024 bytes before them (llm.c)
    X.bin and X.idx      see `data.readers.binidx`

Ids stay exactly what they are. The end-of-text token of their tokenizer parts one document from
the next; where there is none, what a file or an entry of an index holds is one document.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np

from core.errors import UserError
from core.parsing import Unreadable, regular
from data.documents import Document
from data.readers import file_kinds
from data.text import REPLACEMENT, TextTokenizer

NUMPY = b"\x93NUMPY"
PART = 1 << 10
"""Tokens of a document that are decoded together; a lone document is cut between such parts."""
HELD = 1 << 20
"""Tokens of a document that are kept in memory rather than read anew."""
MOST_HELD = 4 * PART
"""Tokens after which bytes that are no text are no longer taken for half a character."""
_MAGIC = {(20240520, 1): "<u2", (20240801, 7): "<u4"}  # llm.c's
_HEADER = 1024  # bytes of theirs
_RECOGNISED = (
    b"PAR1",
    b"ARROW1",
    b"PK\x03\x04",
    b"%PDF-",
)  # longer than a few ids that happen to be the same
_TELLING = 64  # ids, of which every second is small
_HIGH, _LOW = 16, 1 << 10  # upper halves of ids below 1,048,576; what some lower half is above
_MOST_BACK = 8  # tokens: more than a character takes


@dataclass(frozen=True)
class Run:
    """Tokens that lie one after the other in a file."""

    path: Path
    dtype: np.dtype
    begin: int
    """Byte of the first."""
    count: int
    place: str
    """What a message calls it."""

    def blocks(self, first: int = 0, count: int | None = None) -> Iterator[np.ndarray]:
        """The ids from number `first` on, int64 `[T]`. Raises `Unreadable` if the file ends."""
        left = self.count - first if count is None else count
        with regular(self.path) as file:
            file.seek(self.begin + first * self.dtype.itemsize)
            while left > 0:
                content = file.read(min(left, HELD) * self.dtype.itemsize)
                if len(content) < min(left, HELD) * self.dtype.itemsize:
                    raise Unreadable(self.path, "is cut short")
                ids = np.frombuffer(content, self.dtype)
                left -= len(ids)
                if ids.dtype == np.uint64 and int(ids.max()) > np.iinfo(np.int64).max:
                    raise Unreadable(self.path, f"no tokenizer has the token id {ids.max():,}")
                yield ids.astype(np.int64)


def run_of(path: Path, dtype: str) -> Run:
    """All the ids in a `.npy`, or in a file of nothing but ids of that type.

    Raises `Unreadable` for another kind of array, and a size that is none of so many ids.
    """
    with regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(_HEADER)
        begin, kind, count = 0, np.dtype(dtype).newbyteorder("<"), None
        if head.startswith(NUMPY):
            file.seek(0)
            kind, count = _array(path, file)
            begin = file.tell()
        elif len(head) == _HEADER:
            magic, version, tokens = np.frombuffer(head[:12], "<i4").tolist()
            if (magic, version) in _MAGIC:
                begin, kind, count = _HEADER, np.dtype(_MAGIC[magic, version]), tokens
        if not begin and (other := _of_no_ids(path, head, kind)):
            raise Unreadable(path, other)
        if count is not None and (needed := begin + count * kind.itemsize) != size:
            cut = "cut short: " if size < needed else ""
            raise Unreadable(path, f"{cut}has {size:,} bytes, and {needed:,} belong to it")
        there, rest = divmod(size - begin, kind.itemsize)
        if rest:
            raise Unreadable(
                path, f"cut short, or of other ids than {kind.name}: it has {size:,} bytes"
            )
    return Run(path, kind, begin, there, str(path))


def _of_no_ids(path: Path, head: bytes, kind: np.dtype) -> str:
    """Why a file that begins so is not one of ids of that type; nothing if it may be one."""
    # Two bytes may begin ids as well as a file of gzip; the name tells them apart.
    if head.startswith(_RECOGNISED) or (path.suffix != ".bin" and file_kinds.marked(head)):
        return f"is {file_kinds.marked(head)}"
    if text := file_kinds.textual(path, head):
        return f"is {text}"
    halves = np.frombuffer(head[: len(head) // 4 * 4], "<u2")
    if kind.itemsize == 2 and len(halves) >= _TELLING and halves.any():
        low, high = halves[::2].max(), halves[1::2].max()
        if not high or (high < _HIGH and low >= _LOW):
            least = "0" if not high else f"below {_HIGH}"
            return (
                f"every second id is {least}, as where ids have four bytes: data.ids=uint32 "
                "reads those"
            )
    return ""


def _array(path: Path, file: BinaryIO) -> tuple[np.dtype, int]:
    """Type and number of the ids in an array of NumPy's."""
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0
        if version != (1, 0):
            read = np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    except Exception as error:  # of the header, which is Python's syntax, whatever it holds
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise Unreadable(path, f"no array of NumPy's that can be read ({reason})") from None
    if len(shape) != 1 or dtype.kind not in "iu":
        raise Unreadable(
            path, f"{dtype} {list(shape)}: token ids are whole numbers in one dimension"
        )
    return dtype, shape[0]


def documents(run: Run, tokenizer: TextTokenizer) -> Iterator[Document]:
    """The documents in a run, cut at the tokens that end a text.

    Reading one raises `UserError` for an id that the tokenizer does not have.
    """
    start = done = 0
    waiting: list[np.ndarray] = []  # of the document that has not ended
    for block in run.blocks():
        ends = (
            np.flatnonzero(block == tokenizer.end_of_text)
            if tokenizer.end_of_text is not None
            else ()
        )
        for end in (*ends, None):
            ids = block[max(0, start - done) : end]
            waiting.append(ids)
            if end is None:
                break
            yield from _document(run, tokenizer, start, waiting, done + int(end) - start)
            start, waiting = done + int(end) + 1, []
        done += len(block)
        if done - start > HELD:
            waiting = []
    yield from _document(run, tokenizer, start, waiting, done - start)


def whole(run: Run, tokenizer: TextTokenizer) -> Iterator[Document]:
    """A run as one document, with the tokens that end texts inside it. Raises as `documents`."""
    return _document(run, tokenizer, 0, [], run.count)


def _document(
    run: Run, tokenizer: TextTokenizer, first: int, ids: list[np.ndarray], count: int
) -> Iterator[Document]:
    if not count:
        return
    place = run.place if count == run.count else f"{run.place}: token {first:,}"
    if sum(map(len, ids)) == count:  # all of it is here
        blocks = partial(iter, [np.concatenate(ids)])
    else:
        blocks = partial(run.blocks, first, count)
    yield Document.of_tokens(lambda: pieces(blocks(), tokenizer, place), place)


def pieces(
    blocks: Iterable[np.ndarray], tokenizer: TextTokenizer, place: str
) -> Iterator[tuple[bytes, np.ndarray]]:
    """Ids with the text that they are, in parts that end between characters and hold some text."""
    end = tokenizer.end_of_text

    def decoded(ids: np.ndarray) -> str:
        return tokenizer.decode((ids if end is None else ids[ids != end]).tolist())

    last: tuple[bytes, np.ndarray] | None = None
    held = np.zeros(0, dtype=np.uint32)
    parts = (block[i : i + PART] for block in blocks for i in range(0, len(block), PART))
    for ids in parts:
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= tokenizer.vocab_size:
            raise UserError(
                f"{place}: the token id {low if low < 0 else high:,} is none of the "
                f"{tokenizer.vocab_size:,} of data.tokenizer: name the one that the ids belong to"
            )
        held = np.concatenate([held, ids.astype(np.uint32)])
        for back in range(min(_MOST_BACK, len(held))):
            text = decoded(held[: len(held) - back])
            if text and (not text.endswith(REPLACEMENT) or len(held) > MOST_HELD):
                if last is not None:
                    yield last
                last = (text.encode(), held[: len(held) - back])
                held = held[len(held) - back :]
                break
    if len(held):
        text = decoded(held)
        if text and last is not None:
            yield last
            last = None
        before = last or (b"", held[:0])
        last = (before[0] + text.encode(), np.concatenate([before[1], held]))
    if last is not None:
        yield last
