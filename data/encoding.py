"""Documents to token ids, piece by piece, the same wherever it is done: here or in another process.

Imports little, because a process for a foreign tokenizer starts with it.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Protocol

from data.interruptible import Call
from data.text import TextTokenizer

IDS = "I"  # typecode of the arrays of ids: 32 bits
GROUP = 1 << 20  # characters encoded in one call, in parallel
WINDOW = 1 << 22  # characters of a document that are cut into pieces together
AHEAD = 2  # calls that run while more text is read: the second fills the gaps of the first
AROUND = 1 << 10  # characters after a place that may decide whether words end there

NOT_LEARNED, SPECIAL, AFTER_NOT_LEARNED = 1, 2, 4
"""What the mark of a part of a document says, as bits: it is read and not learned; it is the name
of a special token and nothing else; the document before the one it begins does not end in anything
learned."""
READ_ONLY = 1 << 31
"""The bit of an id that says that this token is read and not learned."""

Encoded = tuple["array[int]", int]
"""Token ids, with `READ_ONLY` where it applies, and the bytes of text that they encode."""
Group = Sequence[tuple[str, bool, int]]
"""Pieces that are encoded in one call: text, whether it begins a document, and its mark."""


class Encodes(Protocol):
    """Documents that arrive in parts become ids: what came in so far, in order."""

    def push(self, text: str, begins: bool, ends: bool, mark: int = 0) -> Iterator[Encoded]:
        """Take the next part of a document, its first if it `begins`.

        If it `ends`, so does its last word: with the document, or where another `mark` follows.
        """
        ...

    def flush(self) -> Iterator[Encoded]:
        """Encode what can be: all but the end of a document that has not ended."""
        ...


class Pieces:
    """A document that arrives in parts, cut as if it were whole."""

    def __init__(self, cut: Callable[[str], Iterator[str]]) -> None:
        self._cut = cut
        self._parts: list[str] = []  # joined once they are to be cut
        self._held = 0  # characters of them
        self._wanted = WINDOW  # characters after which cutting is tried

    def push(self, text: str, ends: bool) -> Iterator[str]:
        """The pieces that are certain once `text` has come; all of them if the document `ends`."""
        self._parts.append(text)
        self._held += len(text)
        if not ends and self._held < self._wanted:
            return
        whole, start = "".join(self._parts), 0
        for piece in self._cut(whole):
            end = start + len(piece)
            if not ends and end > len(whole) - AROUND:
                break  # what comes next decides where this piece ends
            yield piece
            start = end
        self._parts, self._held = [whole[start:]], len(whole) - start
        self._wanted = max(WINDOW, 2 * self._held)  # or a text of one word is cut too often


class Encoder:
    """Encode documents with a tokenizer of this process; see `Encodes`.

    An end-of-text token comes before each document, so that even the first word of the first one is
    predicted from something and every byte of text counts in the validation loss. It is what ends
    the document before, and so is learned where that one's end is. The ids are those of the whole
    documents, wherever their parts end.
    """

    def __init__(
        self,
        tokenizer: TextTokenizer,
        size: int = GROUP,
        whole: bool = False,
        ahead: int = AHEAD,
        encode: Callable[[bool, Group], Encoded] | None = None,
    ) -> None:
        """`size` characters are encoded in one call; `whole` keeps special tokens whole.

        `ahead` calls of `encode` run at once, each in a thread; by default that is `encode_group`.
        """
        self._size, self._whole, self._ahead = size, whole, ahead
        self._encode = encode or partial(encode_group, tokenizer)
        self._pieces = Pieces(tokenizer.cut)
        self._first = False  # whether the next piece begins a document
        self._group: list[tuple[str, bool, int]] = []
        self._held = 0  # characters of the group
        self._running: deque[Call[Encoded]] = deque()  # groups that are being encoded

    def push(self, text: str, begins: bool, ends: bool, mark: int = 0) -> Iterator[Encoded]:
        if begins:
            self._first = True
        for piece in self._pieces.push(text, ends):
            self._group.append((piece, self._first, mark))
            self._first = False
            self._held += len(piece)
            if self._held >= self._size:
                if len(self._running) == self._ahead:
                    yield self._running.popleft().result()
                self._begin()

    def flush(self) -> Iterator[Encoded]:
        self._begin()
        while self._running:
            yield self._running.popleft().result()

    def _begin(self) -> None:
        """Encode the group, while what follows it is read."""
        if group := self._group:
            self._group, self._held = [], 0
            self._running.append(Call(partial(self._encode, self._whole, group)))


def encode_group(tokenizer: TextTokenizer, whole: bool, group: Group) -> Encoded:
    """The ids of some pieces, with the separator before those that begin a document."""
    ids = array(IDS)
    separator = [] if tokenizer.end_of_text is None else [tokenizer.end_of_text]
    pieces, begins, _ = zip(*group, strict=True)
    many = tokenizer.encode_many(pieces, whole, begins)
    for (piece, first, mark), tokens in zip(group, many, strict=True):
        if mark & SPECIAL and piece in tokenizer.special_tokens:
            tokens = [tokenizer.special_tokens[piece]]
        if mark:
            if first:
                before = READ_ONLY if mark & AFTER_NOT_LEARNED else 0
                ids.extend(token | before for token in separator)
            bit = READ_ONLY if mark & NOT_LEARNED else 0
            ids.extend(token | bit for token in tokens)
        else:
            ids.extend(separator + tokens if first else tokens)
    return ids, sum(len(piece.encode()) for piece, _, _ in group)


Marked = Sequence[tuple[str, bool, int]]
"""A whole document in parts: the text of each, whether its last word ends with it, its mark."""


def plain(text: str) -> Marked:
    """A document that is learned whole."""
    return [(text, True, 0)] if text else []


def encoded(document: Marked, tokenizer: TextTokenizer) -> Iterator[Encoded]:
    """The ids of a whole document; see `Encoder`."""
    encoder = Encoder(tokenizer)
    for number, (text, ends, mark) in enumerate(document):
        yield from encoder.push(text, not number, ends, mark)
    yield from encoder.flush()
