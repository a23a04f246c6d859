"""What a tokenizer promises, and text from tokens that arrive one at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

END_OF_TEXT = "<|endoftext|>"
REPLACEMENT = "\ufffd"  # what an incomplete or invalid UTF-8 sequence decodes to


class TextTokenizer(Protocol):
    """Text to token ids and back, without loss.

    Special tokens that occur in a text are encoded as the plain text they are: only the store puts
    `end_of_text` between documents.
    """

    vocab_size: int
    """Number of ids that a model needs to have."""
    end_of_text: int | None

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

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; bytes that are not UTF-8 become U+FFFD."""
        ...

    def cut(self, text: str, size: int = 1 << 16) -> Iterator[str]:
        """`text` in pieces of about `size` characters whose tokens, joined, are those of `text`."""
        ...


class StreamDecoder:
    """Text as soon as it is certain: half a character waits for its other half.

    The pieces returned by `push` and the final `flush`, joined, are `decode` of all the ids.
    """

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []  # since the last restart
        self._shown = 0  # characters of their decoding already returned

    def push(self, token: int) -> str:
        """The text that `token` completes, often all of it, sometimes none."""
        self._ids.append(token)
        text = self._tokenizer.decode(self._ids)
        certain = text.rstrip(REPLACEMENT)
        new = certain[self._shown :]
        self._shown = max(self._shown, len(certain))
        if certain == text:
            self._restart(token)
        return new

    def flush(self) -> str:
        """What is left at the end, incomplete characters as U+FFFD."""
        rest = self._tokenizer.decode(self._ids)[self._shown :]
        self._ids, self._shown = [], 0
        return rest

    def _restart(self, token: int) -> None:
        """Forget all but the last token, so that a step costs the same however long the text.

        The last one stays because some decoders treat the first token of a text differently.
        """
        alone = self._tokenizer.decode([token])
        if REPLACEMENT not in alone:
            self._ids, self._shown = [token], len(alone)
