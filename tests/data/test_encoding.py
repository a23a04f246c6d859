"""Ids of documents that arrive in parts: those of the whole documents."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import chain, pairwise

import pytest

from data import encoding, tokenizers
from data.encoding import Encoder, Pieces
from data.text import TextTokenizer
from tests.data.test_tokenizers import ENGLISH, sentencepiece

TEXTS = [
    ENGLISH * 40,
    "é漢🎉 " * 700,
    "no_space_at_all" * 300,
    "a",
    "two\nlines of text\n" * 200,
]


def tokenizer(kind: str) -> TextTokenizer:
    if kind == "bpe":
        return tokenizers.train_bpe([ENGLISH], 300)
    if kind == "bytes":
        return tokenizers.byte_tokenizer()
    if kind == "chars":
        return tokenizers.char_tokenizer(chain.from_iterable(TEXTS))
    return sentencepiece("first")


def in_parts(text: str, draw: random.Random) -> Iterator[tuple[str, bool, bool]]:
    """A text cut at random places, with whether each part begins and ends it."""
    places = sorted(draw.sample(range(1, len(text)), min(len(text) - 1, draw.randrange(9))))
    bounds = [0, *places, len(text)]
    for first, last in pairwise(bounds):
        yield text[first:last], first == 0, last == len(text)


@pytest.mark.parametrize("kind", ["bpe", "bytes", "chars", "sentencepiece"])
def test_parts_make_no_difference(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "WINDOW", 1000)
    used, draw = tokenizer(kind), random.Random(0)
    cut = used.cut
    monkeypatch.setattr(used, "cut", lambda text: cut(text, 400), raising=False)
    whole = []
    for text in TEXTS:
        whole += [] if used.end_of_text is None else [used.end_of_text]
        whole += used.encode(text)
    for group in (2000, 1 << 20):
        encoder, ids, size = Encoder(used, group), [], 0
        for text in TEXTS:
            for part in in_parts(text, draw):
                outputs = [*encoder.push(*part), *(encoder.flush() if draw.random() < 0.3 else ())]
                for new, read in outputs:
                    ids += new
                    size += read
        for new, read in encoder.flush():
            ids += new
            size += read
        assert ids == whole
        assert size == len("".join(TEXTS).encode())


def test_pieces_are_those_of_the_whole_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "WINDOW", 2000)
    draw = random.Random(1)
    for text in TEXTS:
        expected = list(tokenizers.cut(text, 300))
        pieces = Pieces(lambda text: tokenizers.cut(text, 300))
        parts = in_parts(text, draw)
        assert [piece for part in parts for piece in pieces.push(part[0], part[2])] == expected


def test_a_text_of_one_word_is_looked_at_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "WINDOW", 1 << 10)
    looked: list[int] = []

    def cut(text: str) -> Iterator[str]:
        looked.append(len(text))
        yield text

    pieces = Pieces(cut)
    part = "a" * (1 << 8)
    for _ in range(200):
        assert list(pieces.push(part, ends=False)) == []
    assert "".join(pieces.push("b", ends=True)) == part * 200 + "b"
    assert sum(looked) < 4 * 200 * len(part)


def test_a_part_that_is_a_special_token_is_one_id() -> None:
    used = tokenizer("bpe")
    encoder = Encoder(used)
    names = [(name, False, True, encoding.SPECIAL) for name in ("<|endoftext|>", "<none>")]
    parts = [("a", True, True, 0), *names]
    given = [*chain.from_iterable(encoder.push(*part) for part in parts), *encoder.flush()]
    ids = [*chain.from_iterable(ids for ids, _ in given)]
    assert ids == [0, *used.encode("a"), 0, *used.encode("<none>")]
