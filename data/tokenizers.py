"""Tokenizers: which there are, and how each is made or read.

`bpe` is trained on the training documents, `bytes` and `chars` need no training, and anything else
is the path of what was made elsewhere, see `data.tokenizer_files`. All but RWKV World's vocabulary
and SentencePiece's models are a `tokenizers.Tokenizer`. Every kind is saved as one file,
`tokenizer.json`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from heapq import heappop, heappush
from itertools import accumulate, islice
from pathlib import Path

from tokenizers import Encoding, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from core.errors import UserError
from core.parsing import Missing
from data import (
    merges,
    rwkv_world_tokenizer,
    sentencepiece_tokenizer,
    tiktoken_ranks,
    tokenizer_files,
)
from data.interruptible import interruptible
from data.text import END_OF_TEXT, TextTokenizer
from data.tokenizer_files import WITH_END
from data.traits import by_character, byte_symbols, first_space_is_free, has, loses_nothing

# The tokenizers library uses threads, and warns in every process forked afterwards unless this is
# set. The forked processes here are loader workers, which read tokens and never tokenize.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

_KNOWN_ENDS = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[EOS]")

_BETWEEN_WORDS = re.compile(r"(?<=\S)(?= \S)|(?<=\S\n)(?=\S)")

TRAINING_SAMPLE = 32 << 20
"""Bytes of text a BPE is trained on at most; beyond it, pieces are drawn by their hash."""


LONGEST_WORD = 512
"""Bytes of a word that a BPE is trained on at once, as its time grows with their square. Longer
ones (DNA, base64, some Chinese) are cut for the training alone."""

MOST_IDS = 1 << 20
"""A vocabulary has fewer: the largest known have a quarter of a million."""

SPARE = 2048
"""Ids that a model may have beyond its tokenizer's, to be rounded up or for tokens to come."""

_LONG = 1 << 16  # characters that take long enough to encode for Ctrl-C to matter
_TRIES = 64  # places to cut at, before a text is taken to have none
_AROUND = 256  # characters on each side of a place that decide whether words end there


class LibraryTokenizer:
    """A `tokenizers.Tokenizer`; see `data.text.TextTokenizer` for the methods."""

    def __init__(self, tokenizer: Tokenizer, end_of_text: str | None = None) -> None:
        """`end_of_text` names the token that ends a text, where it is not one of the usual ones."""
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = True  # not part of tokenizer.json
        self._tokenizer = tokenizer
        vocab = tokenizer.get_vocab(with_added_tokens=True)
        self.vocab_size: int = max(vocab.values()) + 1
        usual = next((token for token in _KNOWN_ENDS if token in vocab), None)
        self._end = end_of_text if end_of_text in vocab and end_of_text != usual else None
        end = self._end or usual
        self.end_of_text: int | None = None if end is None else vocab[end]
        definition = json.loads(tokenizer.to_str())
        added = definition.get("added_tokens") or []
        self.special_tokens: dict[str, int] = {
            token["content"]: token["id"] for token in added if token["special"]
        }
        self._first_space_is_free = first_space_is_free(definition)
        self._by_character = by_character(definition)
        self._loses_nothing = loses_nothing(definition)

    @property
    def is_byte_level(self) -> bool:
        """Whether it separates words as GPT-2 does, or characters."""
        separator = json.loads(self._tokenizer.to_str())["pre_tokenizer"]
        plain = not self._first_space_is_free and has(separator, "use_regex", (True,))
        return plain or self._by_character

    @property
    def definition(self) -> str:
        """The content of its `tokenizer.json`."""
        return self._tokenizer.to_str()

    def save(self, path: str | Path) -> None:
        Path(path).write_text(self._saved, encoding="utf-8")

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self._saved.encode()).hexdigest()[:16]

    @property
    def _saved(self) -> str:
        if self._end is None:
            return self.definition
        content = {"type": WITH_END, "end_of_text": self._end, "tokenizer": self.definition}
        return json.dumps(content)

    def encode(self, text: str) -> list[int]:
        return self.encode_many([text])[0]

    def encode_many(
        self, texts: Sequence[str], whole: bool = False, begins: Sequence[bool] | None = None
    ) -> list[list[int]]:
        """`encode` of each text, on all processors."""
        tokenizer = self._keeping if whole else self._tokenizer

        def encode() -> list[Encoding]:
            return tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)

        try:
            long = sum(map(len, texts)) > _LONG
            encodings = interruptible(encode) if long else encode()
        except TypeError:  # a str may hold lone surrogates, which no UTF-8 text has
            raise UserError("the text to encode is not valid Unicode") from None
        ids = [encoding.ids for encoding in encodings]
        if self._loses_nothing and not whole:
            return ids
        decoded = tokenizer.decode_batch(ids, skip_special_tokens=False)
        for text, back in zip(texts, decoded, strict=True):
            if back != text and not self._promised(text, back, whole):
                raise UserError(_loss(text, back))
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)

    def cut(self, text: str, size: int = 1 << 16) -> Iterator[str]:
        return cut(text, size, None if self._by_character else self._apart)

    @cached_property
    def _keeping(self) -> Tokenizer:
        """This tokenizer, but special tokens in a text are not text to it."""
        spaced = next((name for name in self.special_tokens if " " in name), None)
        if spaced is not None:
            raise UserError(
                f"special tokens are kept whole only where they have no space: {spaced!r} has one"
            )
        return Tokenizer.from_str(self.definition)

    def _promised(self, text: str, back: str, whole: bool) -> bool:
        """Whether `back` is all that this tokenizer ever promises to give back of `text`."""
        if whole and self._first_space_is_free:  # a text begins behind a special token, too
            after = re.compile(f"({'|'.join(map(re.escape, self.special_tokens))}) ?")
            text, back = after.sub(r"\1", text), after.sub(r"\1", back)
        if back in (text, self._normalised(text)):  # say to NFC
            return True
        return self._first_space_is_free and (text == " " + back or back == " " + text)

    def _normalised(self, text: str) -> str:
        normalizer = self._tokenizer.normalizer
        return text if normalizer is None else normalizer.normalize_str(text)

    def _words(self, text: str) -> list[str]:
        """What the model of the tokenizer reads one by one; a text without separation is one."""
        normal = self._normalised(text)
        separator = self._tokenizer.pre_tokenizer
        return [word for word, _ in separator.pre_tokenize_str(normal)] if separator else [normal]

    def _apart(self, left: str, right: str) -> bool:
        """Whether words always end between two neighbouring parts of a text."""
        words = [self._words(part) for part in (left, right, left + right)]
        if words[0] + words[1] != words[2]:
            return False
        parts = self._tokenizer.encode_batch_fast(
            [left, right, left + right], add_special_tokens=False
        )
        return parts[0].ids + parts[1].ids == parts[2].ids


def load(path: str | Path) -> TextTokenizer:
    """Read the tokenizer that a file or folder of our own holds.

    Raises `UserError` if there is none.
    """
    path = Path(path)
    try:
        found = tokenizer_files.content(path)
        return parse(found.decode(), path)
    except Missing:
        raise UserError(f"{path}: no such tokenizer file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not readable as text ({error})") from None


def parse(text: str, path: Path) -> TextTokenizer:
    """The tokenizer that a content defines, see `data.tokenizer_files`; messages name `path`.

    Raises `UserError`.
    """
    if not text.lstrip().startswith(("{", "[")):
        return rwkv_world_tokenizer.read_vocabulary(path, text)
    try:
        content = json.loads(text)
        if not isinstance(content, dict):
            raise ValueError("it is no JSON object")
        kind = content.get("type")
        if kind == rwkv_world_tokenizer.KIND:
            return rwkv_world_tokenizer.read_saved(path, content)
        if kind == tokenizer_files.SENTENCEPIECE:
            return sentencepiece_tokenizer.read(content)
        if kind == tokenizer_files.TIKTOKEN:
            return _library(tiktoken_ranks.definition(content["name"], content["ranks"]))
        if kind == tokenizer_files.PAIR:
            config = content["config"]
            made = merges.definition(content["vocab"], content["merges"], config)
            return _library(made, config.get("end_of_text"))
        if kind == WITH_END:
            return _library(content["tokenizer"], content["end_of_text"])
        return _library(text)
    except UserError:
        raise
    except BaseException as error:  # bare Exception, ValueError on no vocab, Rust's own panics
        if isinstance(error, (KeyboardInterrupt, SystemExit, MemoryError)):
            raise
        reason = " ".join(str(error).split())[:200]
        if isinstance(error, KeyError):
            reason = f"it has no {reason}"
        raise UserError(f"{path}: not a valid tokenizer ({reason})") from None


def _library(text: str, end_of_text: str | None = None) -> LibraryTokenizer:
    """That of a `tokenizer.json`. Ids that no model could have are refused before it is read."""
    content = json.loads(text)
    entries = content["model"]["vocab"]
    if len(entries) > MOST_IDS:
        raise ValueError(f"{len(entries):,} entries, and {MOST_IDS:,} is the most there may be")
    listed = [*entries.items()] if isinstance(entries, dict) else []
    added = [(token["content"], token["id"]) for token in content.get("added_tokens") or ()]
    for token, i in listed + added:
        if not isinstance(i, int) or not 0 <= i < MOST_IDS:
            raise ValueError(f"the id {i!r} of {token[:40]!r} is not from 0 to {MOST_IDS - 1:,}")
    names = {i: token for token, i in listed}
    for token, i in listed:
        if names[i] != token:
            raise ValueError(f"{token[:40]!r} and {names[i][:40]!r} both have the id {i}")
    return LibraryTokenizer(Tokenizer.from_str(text), end_of_text)


def check_fits(tokenizer: TextTokenizer, vocab_size: int, model: str) -> None:
    """Raise `UserError` if `model` has no embedding for some id of `tokenizer`, or far too many."""
    if tokenizer.vocab_size > vocab_size:
        raise UserError(
            f"the tokenizer has {tokenizer.vocab_size:,} ids and {model} only {vocab_size:,}: it "
            "was trained with another tokenizer"
        )
    if vocab_size > max(2 * tokenizer.vocab_size, tokenizer.vocab_size + SPARE):
        raise UserError(
            f"the tokenizer has {tokenizer.vocab_size:,} ids and {model} {vocab_size:,}, more than "
            "any rounding up: it was trained with another tokenizer"
        )


def train_bpe(texts: Iterable[str], vocab_size: int) -> LibraryTokenizer:
    """Byte-level BPE (GPT-2's): id 0 ends a text, the 256 bytes follow, then merges.

    The same texts always give the same tokenizer. At most `TRAINING_SAMPLE` bytes are used. A text
    with too few repetitions gives fewer than `vocab_size` entries. Raises `UserError` if
    `vocab_size` cannot hold every byte.
    """
    if vocab_size < 257:
        raise UserError(f"data.vocab_size={vocab_size}: a byte-level BPE needs at least 257")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    pieces = _sample(piece for text in texts for piece in cut(text))
    words = tokenizer.pre_tokenizer
    short = pre_tokenizers.Split(Regex(f".{{1,{LONGEST_WORD}}}"), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, short])
    interruptible(lambda: tokenizer.train_from_iterator(pieces, trainer))
    tokenizer.pre_tokenizer = words
    return LibraryTokenizer(tokenizer)


def _sample(pieces: Iterable[str]) -> list[str]:
    """All pieces, or of more than `TRAINING_SAMPLE` bytes those with the smallest hashes."""
    kept: list[tuple[int, int, str]] = []  # a heap, the largest hash first
    first, held, total = "", 0, 0
    for number, piece in enumerate(pieces):
        content = piece.encode()
        first = first or piece
        heappush(kept, (-int.from_bytes(hashlib.sha256(content).digest()), number, piece))
        held += len(content)
        total += len(content)
        while held - (largest := len(kept[0][2].encode())) >= TRAINING_SAMPLE:
            heappop(kept)
            held -= largest
    if total <= TRAINING_SAMPLE:
        return [piece for _, _, piece in sorted(kept, key=lambda entry: entry[1])]
    by_hash = [piece for _, _, piece in sorted(kept, key=lambda entry: (-entry[0], entry[1]))]
    ends = accumulate(len(piece.encode()) for piece in by_hash)
    within = [piece for piece, end in zip(by_hash, ends, strict=True) if end <= TRAINING_SAMPLE]
    return within or [first]


def byte_tokenizer() -> LibraryTokenizer:
    """Token ids are byte values; 256 ends a text."""
    vocab = {symbol: byte for byte, symbol in enumerate(byte_symbols())}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END_OF_TEXT])
    return LibraryTokenizer(tokenizer)


def char_tokenizer(characters: Iterable[str]) -> LibraryTokenizer:
    """One token per character, ids in code point order, nothing else: no end of text."""
    vocab = {character: i for i, character in enumerate(sorted(set(characters)))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.decoder = decoders.Fuse()
    return LibraryTokenizer(tokenizer)


def cut(
    text: str, size: int = 1 << 16, apart: Callable[[str, str], bool] | None = None
) -> Iterator[str]:
    """Pieces of about `size` characters, cut where GPT-2's pattern always separates words.

    So a byte-level BPE gives the same tokens for the pieces as for the whole. For other tokenizers
    `apart` says of the text before and after a place whether that holds there; where it never does
    the text stays whole.
    """
    start = 0
    while len(text) - start > size:
        matches = islice(_BETWEEN_WORDS.finditer(text, start + size), _TRIES)
        places = (match.start() for match in matches)
        end = next(
            (
                place
                for place in places
                if apart is None
                or apart(text[place - _AROUND : place], text[place : place + _AROUND])
            ),
            None,
        )
        if end is None:
            break
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def _loss(text: str, back: str) -> str:
    """The message for a text that did not survive: its first character that is lost."""
    pairs = enumerate(zip(text, back, strict=False))
    where = next((i for i, (a, b) in pairs if a != b), min(len(text), len(back)))
    if where == len(text):
        return f"the tokenizer adds text of its own: {back[where : where + 20]!r}"
    character, around = text[where], text[max(0, where - 20) : where + 20]
    return (
        f"the tokenizer cannot represent {character!r} (U+{ord(character):04X}) in {around!r}: "
        "leave it out, or use a tokenizer that covers it (bpe and bytes cover everything)"
    )
