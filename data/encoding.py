"""Documents to token ids, piece by piece, the same wherever it is done: here or in another process.

Imports little, because a process for a foreign tokenizer starts with it.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator

from data.text import TextTokenizer

IDS = "I"  # typecode of the arrays of ids: 32 bits
GROUP = 1 << 20  # characters encoded in one call, in parallel


def encoded(
    texts: Iterable[str], tokenizer: TextTokenizer, size: int = GROUP
) -> Iterator[tuple[array[int], int]]:
    """The ids of all documents in order, in parts, each with the bytes of text that it encodes.

    An end-of-text token comes before each document, so that even the first word of the first one is
    predicted from something and every byte of text counts in the validation loss.
    """
    separator = [] if tokenizer.end_of_text is None else [tokenizer.end_of_text]
    for group in _groups(texts, tokenizer, size):
        ids = array(IDS)
        many = tokenizer.encode_many([piece for piece, _ in group])
        for (_, first), tokens in zip(group, many, strict=True):
            ids.extend(separator + tokens if first else tokens)
        yield ids, sum(len(piece.encode()) for piece, _ in group)


def _groups(
    texts: Iterable[str], tokenizer: TextTokenizer, size: int
) -> Iterator[list[tuple[str, bool]]]:
    """Pieces of the documents in order, about `size` characters at a time, to encode in parallel.

    Each piece comes with whether it begins a document.
    """
    group: list[tuple[str, bool]] = []
    held = 0
    for text in texts:
        for i, piece in enumerate(tokenizer.cut(text)):
            group.append((piece, i == 0))
            held += len(piece)
            if held >= size:
                yield group
                group, held = [], 0
    if group:
        yield group
