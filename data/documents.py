"""Documents that are read in parts, as often as needed, each side of their split by itself.

A corpus of any size is surveyed once, which leaves 50 bytes and a name for each document in
memory, and then read again to be tokenized. What is read then is compared with the survey.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from core.errors import UserError
from core.units import counted
from data.encoding import AFTER_NOT_LEARNED, NOT_LEARNED, SPECIAL, Marked

SIDES = ("train", "val")
LEFT_OUT = len(SIDES)
"""The number of no side."""
Spans = tuple[tuple[int, int], ...]
"""Places in a document: first byte and end of each, in order and apart."""


Tokens = Iterable[tuple[bytes, np.ndarray]]
"""Text, and the ids that it is, uint32 `[T]`, in parts that end between characters."""


@dataclass(frozen=True)
class Document:
    """One text. `name` is relative, so that a corpus is the same corpus wherever it lies.

    A record of a file of many has no name: its content alone says what it is, so that the same
    texts are the same corpus in whichever format they lie.
    """

    name: str
    parts: Callable[[], Iterable[bytes]]
    """UTF-8, in parts that end between characters; each call reads it anew."""
    place: str = ""
    """Where it lies, for messages; as its name says if empty."""
    tokens: Callable[[], Tokens] | None = None
    """Its parts with their ids, of a document that somebody else has tokenized."""
    unlearned: Spans = ()
    """What of it is read and not learned."""
    special: Spans = ()
    """Names of special tokens, each a span: the tokenizer's tokens of these names are meant."""

    @classmethod
    def of(cls, name: str, content: bytes, place: str = "") -> Document:
        """A document that is in memory."""
        return cls(name, lambda: (content,), place)

    @classmethod
    def of_tokens(cls, tokens: Callable[[], Tokens], place: str) -> Document:
        """A document that is token ids already."""
        return cls("", lambda: (text for text, _ in tokens()), place, tokens)

    def pieces(self) -> Iterable[tuple[bytes, np.ndarray | None]]:
        """Its parts, and their ids where it has any of its own."""
        return ((part, None) for part in self.parts()) if self.tokens is None else self.tokens()

    @property
    def title(self) -> str:
        """What a message calls it."""
        return self.place or self.name

    def digest(self, content: bytes) -> bytes:
        """SHA-256 of what it is; `content` is that of its bytes."""
        if not self.unlearned and not self.special:
            return content
        return hashlib.sha256(content + repr((self.unlearned, self.special)).encode()).digest()

    def marks(self, first: int, end: int) -> Iterator[tuple[int, int]]:
        """The stretches of its bytes from `first` to `end`: the end of each, and its mark."""
        changes = dict.fromkeys((first, end), 0)
        for spans, bit in ((self.unlearned, NOT_LEARNED), (self.special, SPECIAL)):
            for low, high in spans:
                for place, change in ((max(low, first), bit), (high, -bit)):
                    if first < high and low < end:
                        changes[place] = changes.get(place, 0) + change
        mark, place = 0, first
        for edge in sorted(changes):
            if place < edge <= end:
                yield edge, mark
                place = edge
            mark += changes[edge]

    def whole(self) -> Marked:
        """All of it, in memory, with what is learned of it."""
        content, first = b"".join(self.parts()), 0
        parts = []
        for edge, mark in self.marks(0, len(content)):
            parts.append((content[first:edge].decode(), True, mark))
            first = edge
        return parts

    def unlearned_bytes(self, first: int, end: int) -> int:
        """How many of its bytes from `first` to `end` are not learned."""
        return sum(max(0, min(high, end) - max(low, first)) for low, high in self.unlearned)


class Part(NamedTuple):
    """A piece of one document, on one side of the split."""

    side: str
    content: bytes
    begins: bool
    """Whether it is the first piece of its document on this side."""
    ends: bool
    """Whether its last word ends with it: it is the last piece, or another mark follows."""
    ids: np.ndarray | None = None
    """The tokens that it is already, uint32 `[T]`."""
    mark: int = 0
    """See `data.encoding`."""


class Side(NamedTuple):
    """How much text there is to train on, or to validate with."""

    documents: int
    bytes: int


class Reading:
    """How far documents have been read: so many bytes of the one of this number, whose digest is.

    Those before it were what they should be.
    """

    def __init__(self) -> None:
        self.document, self.size, self.digest = 0, 0, hashlib.sha256()

    def as_dict(self) -> dict[str, Any]:
        """What `Split.has_read` takes."""
        return {"document": self.document, "size": self.size, "sha256": self.digest.hexdigest()}


@dataclass(frozen=True, eq=False)
class Split:
    """Which documents to train on, and which are held out. No content occurs in both."""

    documents: Iterable[Document] = field(repr=False)
    """All of them, in order; iterated as often as needed."""
    fingerprint: str
    """16 hex digits over every name and content, and which side each is on."""
    sizes: np.ndarray = field(repr=False)
    """Bytes of each document, `[N]`."""
    sides: np.ndarray = field(repr=False)
    """Number in `SIDES` of each document, `[N]`; `len(SIDES)` for one that is left out."""
    digests: np.ndarray = field(repr=False)
    """SHA-256 of each document, `[N, 32]`."""
    cut: int | None = None
    """The byte at which a single document is cut: its end is held out."""
    unlearned: dict[str, int] | None = None
    """Bytes of each side that are read and not learned; None: every document is learned whole."""

    def side(self, name: str) -> Side:
        """The size of a side."""
        if self.cut is not None:
            whole = int(self.sizes[self.sides != LEFT_OUT][0])
            return Side(1, self.cut if name == "train" else whole - self.cut)
        sizes = self.sizes[self.sides == SIDES.index(name)]
        return Side(len(sizes), int(sizes.sum()))

    @property
    def largest(self) -> int:
        """Bytes of the largest document."""
        if self.cut is not None:
            return max(self.side(name).bytes for name in SIDES)
        return int(self.sizes[self.sides != LEFT_OUT].max())

    def has_read(self, document: int, size: int, sha256: str) -> bool:
        """Whether the first bytes of a document are those of a `Reading`. Raises `UserError`."""
        digest = hashlib.sha256()
        for each in islice(self.documents, document, document + 1):
            for content, _ in each.pieces():
                digest.update(content[:size])
                size -= min(size, len(content))
                if not size:
                    break
        return not size and digest.hexdigest() == sha256

    def parts(
        self,
        done: dict[str, int] | None = None,
        side: str | None = None,
        reading: Reading | None = None,
    ) -> Iterator[Part]:
        """The text of both sides, or of one, in the order of the documents.

        Of each side the first `done` bytes are left out, which must end between characters.
        `reading` is told how far that is. Raises `UserError` if a document is no longer what it was
        when the split was made, once all of it has been read.
        """
        reading = Reading() if reading is None else reading
        left = dict.fromkeys(SIDES, 0) | (done or {})
        after = dict.fromkeys(SIDES, 0)  # marks of the end of the document before
        number = -1
        for number, document in enumerate(self.documents):
            if number >= len(self.sizes):
                raise self._other_count(f"more, {document.title} among them")
            wanted = []
            for first, here, size in self._spans(number):
                skipped = min(size, left[here])
                left[here] -= skipped
                if skipped < size and side in (None, here):
                    wanted.append((first, first + skipped, first + size, here))
            if wanted:
                for part in self._read(number, document, wanted, reading):
                    unlearned = part.begins and after[part.side]
                    yield part._replace(mark=part.mark | AFTER_NOT_LEARNED) if unlearned else part
            if self.unlearned is not None:
                for first, here, size in self._spans(number):
                    end = first + size
                    after[here] = document.unlearned_bytes(end - 1, end)
        if number + 1 != len(self.sizes):
            last = f", the last of which is {document.title}" if number >= 0 else ""
            raise self._other_count(f"{number + 1:,}{last}")

    def texts(self, side: str) -> Iterator[tuple[str, bool]]:
        """The parts of one side as text, with whether each ends its document."""
        for part in self.parts(side=side):
            yield part.content.decode(), part.ends

    def beginnings(self, count: int) -> list[bytes]:
        """The first part of each of the first `count` documents."""
        kept = (doc for doc, side in zip(self.documents, self.sides, strict=False)
                if side != LEFT_OUT)  # fmt: skip
        return [next(iter(document.parts()), b"") for document in islice(kept, count)]

    def _read(
        self,
        number: int,
        document: Document,
        wanted: list[tuple[int, int, int, str]],
        reading: Reading,
    ) -> Iterator[Part]:
        """Each of `wanted` is where a document begins, where to read from and to, and the side."""
        digest, place = hashlib.sha256(), 0
        reading.document, reading.size, reading.digest = number, 0, digest
        edges = {edge for span in (*document.unlearned, *document.special) for edge in span}
        for content, ids in document.pieces():
            digest.update(content)
            reading.size = end = place + len(content)
            for begin, first, last, side in wanted:
                low, high = max(first, place), min(last, end)
                if low < high and not edges:
                    if ids is not None and (low, high) != (place, end):
                        raise _changed(document.title)  # those of tokens are cut at their parts
                    piece = content[low - place : high - place]
                    yield Part(side, piece, low == begin, high == last, ids)
                elif low < high:
                    for edge, mark in document.marks(low, high):
                        piece = content[low - place : edge - place]
                        ends = edge in edges or edge == last
                        yield Part(side, piece, low == begin, ends, None, mark)
                        low = edge
            place = end
        found = document.digest(digest.digest())
        if place != self.sizes[number] or found != self.digests[number].tobytes():
            raise _changed(document.title)

    def _other_count(self, now: str) -> UserError:
        return _changed(
            "the corpus", "it", f": it had {counted(len(self.sizes), 'document')}, now {now}"
        )

    def _spans(self, number: int) -> list[tuple[int, str, int]]:
        """First byte, side and size of what a document adds."""
        size = int(self.sizes[number])
        if self.sides[number] == LEFT_OUT:
            return []
        if self.cut is not None:
            return [(0, "train", self.cut), (self.cut, "val", size - self.cut)]
        return [(0, SIDES[self.sides[number]], size)]


def _changed(what: str, prepared: str = "the corpus", how: str = "") -> UserError:
    return UserError(
        f"{what} changed while {prepared} was being prepared{how}: run the same command again "
        "once nothing writes there any more"
    )
