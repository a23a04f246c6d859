"""A model of SentencePiece as a `tokenizer.json`, for tools that run the library `tokenizers`.

What `transformers` makes of a `tokenizer.model` by itself gives other ids: it takes the space that
a text begins with for the one that the model puts there, and leaves normalisation out. Here each
step is written out, and the result is tried on many texts: the same ids, or none is written.
"""

from __future__ import annotations

import base64
import json
import random
import re
import struct
from collections.abc import Iterator
from typing import Any

from tokenizers import Tokenizer

from core.errors import UserError
from data.sentencepiece_tokenizer import SPACE, SentencePieceTokenizer

NORMAL, UNKNOWN, CONTROL, DEFINED, UNUSED, BYTE = range(1, 7)
"""Kinds of pieces."""
UNIGRAM, BPE, CHARACTERS = 1, 2, 4
"""Kinds of models; 3 are words."""
NEVER = 1000.0
"""How much less likely a piece is than all others that must not be found in a text."""
TEXTS = 400
"""Drawn ones that both are tried on, beside every piece."""
PROBES = (
    " ", "  ", "a", " a", "  a  b ", "The quick  dog.\n\n  It jumps\tover\r\nit  ", "x\u0000y",
    "naïve Ünïcode 你好 🙂 e\u0301", "ﬁne ① Å ２", "<0x41> <unk> <pad>",
    "1234567 def f(x):\n    return x",
)  # fmt: skip


def definition(tokenizer: SentencePieceTokenizer) -> str | None:
    """The `tokenizer.json` that gives the ids of this tokenizer; None where none was found.

    Names of its special tokens are these tokens there, as with `data.special_tokens=whole`.
    """
    made = _made(_Model(tokenizer.model))
    return made if made is not None and _agrees(tokenizer, Tokenizer.from_str(made)) else None


class _Model:
    """What a model says of itself: a protocol buffer."""

    def __init__(self, content: bytes) -> None:
        self.pieces: list[tuple[str, float, int]] = []
        """Name, score and kind of each."""
        trainer: dict[int, Any] = {}
        normalizer: dict[int, Any] = {}
        for number, value in _fields(content):
            if number == 1:
                piece = dict(_fields(value))
                self.pieces.append((piece[1].decode(), piece.get(2, 0.0), piece.get(3, NORMAL)))
            elif number in (2, 3):  # a later value takes the place of an earlier one
                (trainer if number == 2 else normalizer).update(_fields(value))
        self.kind: int = trainer.get(3, UNIGRAM)
        self.ends_words: bool = bool(trainer.get(24, 0))
        self.characters: bytes = normalizer.get(2, b"")
        self.prefix, self.shrinks, self.escapes = (bool(normalizer.get(i, 1)) for i in (3, 4, 5))

    def of_kind(self, *kinds: int) -> list[str]:
        return [name for name, _, kind in self.pieces if kind in kinds]


def _fields(content: bytes) -> Iterator[tuple[int, Any]]:
    """Number and value of each field of a message of protocol buffers."""
    place = 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = content[place]
            place += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while place < len(content):
        tag = varint()
        value: Any
        if tag & 7 == 0:
            value = varint()
        elif tag & 7 == 2:
            size = varint()
            value, place = content[place : place + size], place + size
        else:
            size = 4 if tag & 7 == 5 else 8
            value = struct.unpack("<f" if size == 4 else "<d", content[place : place + size])[0]
            place += size
        yield tag >> 3, value


def _made(model: _Model) -> str | None:
    """The definition, untried; None for what the library has no means for."""
    unknown = model.of_kind(UNKNOWN)
    if model.kind not in (UNIGRAM, BPE, CHARACTERS) or model.ends_words or not model.escapes:
        return None
    if model.of_kind(UNUSED) or len(unknown) != 1:
        return None
    defined = sorted(model.of_kind(DEFINED), key=len, reverse=True)
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    special = [
        {"id": number, "content": name, **plain, "special": True}
        for number, (name, _, kind) in enumerate(model.pieces)
        if kind == CONTROL
    ]
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if model.prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": special,
        "normalizer": _normalizer(model), "pre_tokenizer": _separator(model, defined),
        "post_processor": None, "decoder": {"type": "Sequence", "decoders": decoders},
        "model": _unigram(model) if model.kind == UNIGRAM else _bpe(model, unknown[0], defined),
    })  # fmt: skip


def _normalizer(model: _Model) -> dict[str, Any]:
    steps: list[dict[str, Any]] = []
    if model.characters:
        text = base64.b64encode(model.characters).decode()
        steps.append({"type": "Precompiled", "precompiled_charsmap": text})
    if model.shrinks:
        for pattern, content in ((" {2,}", " "), (r"\A +| +\z", "")):
            steps.append({"type": "Replace", "pattern": {"Regex": pattern}, "content": content})
        if model.prefix:  # after a special token too, where the space before a word was taken away
            steps.append({"type": "Prepend", "prepend": SPACE})
    steps.append({"type": "Replace", "pattern": {"String": " "}, "content": SPACE})
    return {"type": "Sequence", "normalizers": steps}


def _separator(model: _Model, defined: list[str]) -> dict[str, Any] | None:
    steps: list[dict[str, Any]] = []
    if model.prefix and not model.shrinks:
        # At the beginning of a text alone, and also where it begins with a space: no space is left
        # of the text's own, so the first step always puts one there, and the second renames it.
        first = {"type": "Metaspace", "replacement": " ", "prepend_scheme": "first"}
        then = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "never"}
        steps += [{**first, "split": False}, {**then, "split": False}]
    parted = list(map(re.escape, defined))
    if defined or model.kind == UNIGRAM:  # else no merge leads to these names
        unknown = model.of_kind(UNKNOWN)[0]
        parted.append(f"{re.escape(unknown[:1])}(?={re.escape(unknown[1:])})")
        if model.of_kind(BYTE):
            parted.append("<(?=0x[0-9A-F]{2}>)")
    if parted:
        pattern = "|".join(parted)
        split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
        steps.append({**split, "invert": False})
    return {"type": "Sequence", "pretokenizers": steps} if steps else None


def _unigram(model: _Model) -> dict[str, Any]:
    lowest = min((score for _, score, kind in model.pieces if kind == NORMAL), default=0.0)
    found = (NORMAL, DEFINED)
    return {
        "type": "Unigram",
        "unk_id": [kind for _, _, kind in model.pieces].index(UNKNOWN),
        "vocab": [
            [name, score if kind in found else lowest - NEVER] for name, score, kind in model.pieces
        ],
        "byte_fallback": bool(model.of_kind(BYTE)),
    }


def _bpe(model: _Model, unknown: str, defined: list[str]) -> dict[str, Any]:
    ids = {name: number for number, (name, _, kind) in enumerate(model.pieces) if kind == NORMAL}
    merges = []
    if model.kind == BPE:
        by_score = sorted(ids, key=lambda name: -model.pieces[ids[name]][1])
        for name in by_score:
            ways = [(name[:place], name[place:]) for place in range(1, len(name))]
            pairs = [(left, right) for left, right in ways if left in ids and right in ids]
            merges += sorted(pairs, key=lambda pair: (ids[pair[0]], ids[pair[1]]))
    return {
        "type": "BPE", "dropout": None, "unk_token": unknown, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": bool(model.of_kind(BYTE)),
        "ignore_merges": bool(defined),  # or a symbol of several characters would be none
        "vocab": {name: number for number, (name, _, _) in enumerate(model.pieces)},
        "merges": merges,
    }  # fmt: skip


def _agrees(ours: SentencePieceTokenizer, theirs: Tokenizer) -> bool:
    """Whether both give the same ids, for every piece, drawn texts and special tokens."""
    model = _Model(ours.model)
    names = [name.replace(SPACE, " ") for name in model.of_kind(NORMAL, DEFINED)]
    draw = random.Random(0)
    texts = ["".join(draw.choices(names, k=draw.randrange(2, 13))) for _ in range(TEXTS)]
    special = list(ours.special_tokens)
    mixed = [
        text for name in special[:8] for text in (name, f"a{name}b", f" {name} b {name}{name}")
    ]
    for whole, some in ((False, [*PROBES, *names, *texts]), (True, mixed)):
        known = [text for text in some if whole or not any(name in text for name in special)]
        for text, found in zip(known, theirs.encode_batch(known, False), strict=True):
            try:
                if ours.encode_many([text], whole)[0] != found.ids:
                    return False
            except UserError:  # it has a character that this tokenizer does not have
                continue
    return True
