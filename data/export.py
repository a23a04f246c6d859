"""A prepared corpus as others read it: binidx, for RWKV-LM and Megatron."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data.documents import SIDES
from data.readers import binidx
from data.store import Corpus

BLOCK = 1 << 20  # tokens looked at, or written, at once


def write_binidx(corpus: Corpus, part: str, prefix: Path) -> int:
    """Write one side of a corpus, or `all` of it, as PREFIX.bin and PREFIX.idx; tokens written.

    Each document is its ids and the end-of-text token; a side is one document where the tokenizer
    has no such token. Raises `UserError` if the corpus is no longer what was prepared.
    """
    sides = SIDES if part == "all" else (part,)
    found = (document for side in sides for document in documents(corpus, side))
    return binidx.write(prefix, found, corpus.vocab_size)


def documents(corpus: Corpus, side: str) -> Iterator[Iterator[np.ndarray]]:
    """The tokens of each document of a side in parts `[T]`, with the one that ends a text."""
    tokens, end = getattr(corpus, side), corpus.tokenizer.end_of_text
    if end is None:
        yield _parts(corpus, side, 0, len(tokens), None)
        return
    if corpus.meta.end_of_text == "after":
        begin = 0
        for first in range(0, len(tokens), BLOCK):
            for place in np.flatnonzero(tokens[first : first + BLOCK] == end).tolist():
                yield _parts(corpus, side, begin, first + place + 1, None)
                begin = first + place + 1
        if begin < len(tokens):  # ids of others, which end in no such token
            yield _parts(corpus, side, begin, len(tokens), None)
        return
    start: int | None = None
    for first in range(0, len(tokens), BLOCK):
        for place in np.flatnonzero(tokens[first : first + BLOCK] == end).tolist():
            if start is not None:
                yield _parts(corpus, side, start, first + place, end)
            start = first + place + 1
    if start is not None:
        yield _parts(corpus, side, start, len(tokens), end)


def _parts(
    corpus: Corpus, side: str, start: int, stop: int, end: int | None
) -> Iterator[np.ndarray]:
    tokens = getattr(corpus, side)
    for first in range(start, stop, BLOCK):
        yield tokens[first : min(stop, first + BLOCK)]
    if end is not None:
        yield np.array([end])
