"""SentencePiece's models, run by its own library, the package `sentencepiece`.

Its pieces are runs of the normalised text, in which a space is U+2581. Normalisation is what the
model promises: one that composes characters, or takes several spaces for one, does so here too. A
character without a piece is refused, and so is U+2581 itself, which would come back as a space.
Control pieces such as </s> are never found in a text.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from core.errors import UserError
from data.tokenizer_files import SENTENCEPIECE

SPACE = "\u2581"
_WITHOUT_PREFIX = b"\x1a\x02\x18\x00"
"""Field 3 of the model, the normaliser, with its field 3, `add_dummy_prefix`, false. In a protocol
buffer what follows takes the place of what came before."""
_BEFORE_A_WORD = re.compile(r"(?<=\S)(?= \S)")
_ACROSS = re.compile(f"[^{SPACE}]{SPACE}")


class SentencePieceTokenizer:
    """A model of SentencePiece; see `data.text.TextTokenizer` for the methods.

    A text longer than `cut`'s pieces is encoded in these, which are parted where no piece of the
    vocabulary could stand. So the ids of a text do not depend on how it arrives.
    """

    def __init__(self, model: bytes, end_of_text: str | None = None) -> None:
        """`end_of_text` names another piece than the model's own end of a sentence.

        Raises `UserError` without the package, and `ValueError` for what is no model.
        """
        try:
            from sentencepiece import SentencePieceProcessor
        except ImportError:
            raise UserError(
                "a tokenizer of SentencePiece needs its package: pip install sentencepiece"
            ) from None
        self._model = model
        try:
            self._whole = SentencePieceProcessor(model_proto=model)
            self._later = SentencePieceProcessor(model_proto=model + _WITHOUT_PREFIX)
        except (RuntimeError, OSError) as error:
            raise ValueError(f"not a model of SentencePiece: {error}") from None
        self.vocab_size: int = self._whole.get_piece_size()
        control = filter(self._whole.is_control, range(self.vocab_size))
        self.special_tokens: dict[str, int] = {self._whole.id_to_piece(i): i for i in control}
        named = self._whole.piece_to_id(end_of_text or "")
        end = self._whole.eos_id() if named == self._whole.unk_id() else named
        self.end_of_text: int | None = end if end >= 0 else None
        # Several spaces taken for one: those before a piece of a text would be lost as well.
        self._shrinks: bool = SPACE * 2 not in self._whole.normalize("x  x")
        self._prefixed: bool = self._whole.normalize("x").startswith(SPACE)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self._definition.encode()).hexdigest()[:16]

    @property
    def model(self) -> bytes:
        """The content of its `tokenizer.model`."""
        return self._model

    def save(self, path: str | Path) -> None:
        Path(path).write_text(self._definition, encoding="utf-8")

    def encode(self, text: str) -> list[int]:
        pieces = [*self.cut(text)]
        begins = [number == 0 for number in range(len(pieces))]
        return [*chain.from_iterable(self.encode_many(pieces, begins=begins))]

    def encode_many(
        self, texts: Sequence[str], whole: bool = False, begins: Sequence[bool] | None = None
    ) -> list[list[int]]:
        begins = [True] * len(texts) if begins is None else begins
        if not whole:
            return self._encode(texts, begins)
        # What stands between special tokens, and these: every second part.
        parts = [self._special.split(text) if text else [""] for text in texts]
        plain = [part for each in parts for part in each[::2]]
        first = [
            begin and number == 0
            for each, begin in zip(parts, begins, strict=True)
            for number in range(0, len(each), 2)
        ]
        encoded = iter(self._encode(plain, first))
        return [
            [*chain.from_iterable(
                [self.special_tokens[part]] if number % 2 else next(encoded)
                for number, part in enumerate(each)
            )]
            for each in parts
        ]  # fmt: skip

    def decode(self, ids: Iterable[int]) -> str:
        text, run = "", list[int]()
        names = {number: name for name, number in self.special_tokens.items()}
        for number in [*ids, None]:
            if number is not None and number not in names:
                if number < self.vocab_size:  # a model may have more ids than there are pieces
                    run.append(number)
                continue
            text += str(self._whole.decode(run)) + ("" if number is None else names[number])
            run = []
        return text

    def cut(self, text: str, size: int = 1 << 16) -> Iterator[str]:
        start = 0
        while len(text) - start > size and self._parts:
            match = _BEFORE_A_WORD.search(text, start + size)
            if match is None:
                break
            yield text[start : match.start()]
            start = match.start()
        if start < len(text):
            yield text[start:]

    def _encode(self, texts: Sequence[str], begins: Sequence[bool]) -> list[list[int]]:
        self._check(texts)
        # Where spaces are taken for one, the space before a later piece is the model's own prefix.
        later = self._whole if self._shrinks else self._later
        ids: list[list[int]] = [[] for _ in texts]
        for processor, begin in ((self._whole, True), (later, False)):
            places = [i for i, first in enumerate(begins) if bool(first) == begin]
            found: Any = processor.encode([texts[i] for i in places], out_type=int)
            for place, each in zip(places, found, strict=True):
                ids[place] = each
        unknown = self._whole.unk_id()
        for text, each in zip(texts, ids, strict=True):
            if unknown in each:
                raise UserError(self._loss(text, unknown))
        return ids

    def _check(self, texts: Sequence[str]) -> None:
        for text in texts:
            try:
                text.encode()
            except UnicodeEncodeError:  # a str may hold lone surrogates, which no UTF-8 text has
                raise UserError("the text to encode is not valid Unicode") from None
            if SPACE in text:
                raise UserError(_cannot(SPACE, text, "it stands for a space there"))

    def _loss(self, text: str, unknown: int) -> str:
        lost = (char for char in text if unknown in self._later.encode(char, out_type=int))
        return _cannot(next(lost, text[:1]), text, "no piece has it")

    @property
    def _definition(self) -> str:
        model = base64.b64encode(self._model).decode()
        end = None if self.end_of_text is None else self._whole.id_to_piece(self.end_of_text)
        return json.dumps({"type": SENTENCEPIECE, "model": model, "end_of_text": end})

    @cached_property
    def _special(self) -> re.Pattern[str]:
        """A special token, the longest one that stands there; what it finds is kept in a split."""
        names = sorted(self.special_tokens, key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, names))})" if names else r"((?!))")

    @cached_property
    def _parts(self) -> bool:
        """Whether a text can be parted before a word: no piece goes on across a space."""
        if self._shrinks and not self._prefixed:
            return False
        pieces = map(self._whole.id_to_piece, range(self.vocab_size))
        return not any(_ACROSS.search(piece) for piece in pieces)


def read(content: dict[str, Any]) -> SentencePieceTokenizer:
    """The tokenizer of a content of this type. Raises `ValueError` if it is not sound."""
    model, end = content["model"], content.get("end_of_text")
    return SentencePieceTokenizer(base64.b64decode(model, validate=True), end)


def _cannot(character: str, text: str, why: str) -> str:
    where = text.index(character) if character in text else 0
    return (
        f"the tokenizer cannot represent {character!r} (U+{ord(character):04X}) in "
        f"{text[max(0, where - 20) : where + 20]!r}: {why}"
    )
