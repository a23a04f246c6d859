"""What a tokenizer promises, and text from tokens that arrive one at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

END_OF_TEXT = "<|endoftext|>"
REPLACEMENT = "\ufffd"  # what an incomplete or invalid UTF-8 sequence decodes to
MOST_WAITING = 3  # bytes of a character that is still incomplete
_KEPT = 8  # tokens: more than a character takes


class TextTokenizer(Protocol):
    """Text to token ids and back, without loss.

    Special tokens that occur in a text are encoded as the plain text they are, unless they are
    asked for: only the store puts `end_of_text` between documents.
    """

    vocab_size: int
    """Number of ids that a model needs to have."""
    end_of_text: int | None
    special_tokens: dict[str, int]
    """The ids that stand for no text, by their names."""

    @property
    def fingerprint(self) -> str:
        """16 hex digits over the whole definition."""
        ...

    def save(self, path: str | Path) -> None:
        """Write one file; `data.tokenizers.load` gives a tokenizer of the same fingerprint."""
        ...

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`. Raises `UserError` naming what cannot be represented."""
        ...

    def encode_many(
        self, texts: Sequence[str], whole: bool = False, begins: Sequence[bool] | None = None
    ) -> list[list[int]]:
        """`encode` of each text.

        `whole` keeps special tokens whole where their names occur. `begins` says which texts are
        not later pieces of `cut`; by default, all are texts of their own.
        """
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; bytes that are not UTF-8 become U+FFFD."""
        ...

    def cut(self, text: str, size: int = 1 << 16) -> Iterator[str]:
        """`text` in pieces of about `size` characters whose tokens, joined, are those of `text`."""
        ...


class StreamDecoder:
    """Text as soon as it is certain: half a character waits for its other half.

    The pieces returned by `push` and the final `flush`, joined, are `decode` of all the ids; with
    `after`, they are what the ids add to its text. A step costs the same however long the text.
    """

    def __init__(self, tokenizer: TextTokenizer, after: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []  # since the last restart
        self._shown = 0  # characters of their decoding already returned
        if after:
            self._restart([*after])

    def push(self, token: int) -> str:
        """The text that `token` completes, often all of it, sometimes none."""
        self._ids.append(token)
        text = self._tokenizer.decode(self._ids)
        waiting = len(text) - len(text.rstrip(REPLACEMENT))
        if waiting > 4 * _KEPT:  # no character will come of most of them
            waiting = MOST_WAITING
        certain = text[: len(text) - waiting]
        new = certain[self._shown :]
        self._shown = max(self._shown, len(certain))
        if not waiting:
            self._restart(self._ids)
        elif len(self._ids) % (4 * _KEPT) == 0:
            self._forget(text)
        return new

    def flush(self) -> str:
        """What is left at the end, incomplete characters as U+FFFD."""
        rest = self._tokenizer.decode(self._ids)[self._shown :]
        self._ids, self._shown = [], 0
        return rest

    def _restart(self, ids: list[int]) -> None:
        """Go on from the last few of `ids`, all of whose text has been returned.

        As few as make whole characters stay, because some decoders treat the first token of a text
        differently.
        """
        count = 1
        while True:
            kept = ids[-count:]
            text = self._tokenizer.decode(kept)
            if REPLACEMENT not in text or count >= len(ids):
                break
            count = count + 1 if count < _KEPT else 2 * count
        self._ids, self._shown = kept, len(text)

    def _forget(self, text: str) -> None:
        """Drop tokens that are no text, where what follows does not depend on them."""
        first, last = self._ids[:-_KEPT], self._ids[-_KEPT:]
        before = self._tokenizer.decode(first)
        if before + self._tokenizer.decode(last) == text and len(before) <= self._shown:
            self._ids, self._shown = last, self._shown - len(before)
