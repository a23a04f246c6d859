"""Tokenizers: which there are, and how each is made or read.

`bpe` is trained on the training documents, `bytes` and `chars` need no training, and anything else
is the path of a file made elsewhere: a `tokenizer.json`, or the vocabulary of RWKV World. All but
the last are a `tokenizers.Tokenizer`. Every kind is saved as one file, `tokenizer.json`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import heappop, heappush
from itertools import accumulate, islice
from pathlib import Path

from tokenizers import Encoding, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from core.errors import UserError
from core.parsing import Missing, read_text
from data import rwkv_world_tokenizer
from data.interruptible import interruptible
from data.text import END_OF_TEXT, TextTokenizer
from data.traits import by_character, byte_symbols, first_space_is_free, has, loses_nothing

# The tokenizers library uses threads, and warns in every process forked afterwards unless this is
# set. The forked processes here are loader workers, which read tokens and never tokenize.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

_KNOWN_ENDS = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[EOS]")

_BETWEEN_WORDS = re.compile(r"(?<=\S)(?= \S)|(?<=\S\n)(?=\S)")

MOST = 64 << 20
"""Bytes of a tokenizer's file; the largest in use have 33 MB."""

TRAINING_SAMPLE = 32 << 20
"""Bytes of text a BPE is trained on at most; beyond it, pieces are drawn by their hash."""


LONGEST_WORD = 512
"""Bytes of a word that a BPE is trained on at once, as its time grows with their square. Longer
ones (DNA, base64, some Chinese) are cut for the training alone."""

MOST_IDS = 1 << 20
"""A vocabulary has fewer: the largest known have a quarter of a million."""

_LONG = 1 << 16  # characters that take long enough to encode for Ctrl-C to matter
_TRIES = 64  # places to cut at, before a text is taken to have none
_AROUND = 256  # characters on each side of a place that decide whether words end there


class LibraryTokenizer:
    """A `tokenizers.Tokenizer`; see `data.text.TextTokenizer` for the methods."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = True  # not part of tokenizer.json
        self._tokenizer = tokenizer
        vocab = tokenizer.get_vocab(with_added_tokens=True)
        self.vocab_size: int = max(vocab.values()) + 1
        self.end_of_text: int | None = next((vocab[t] for t in _KNOWN_ENDS if t in vocab), None)
        added = tokenizer.get_added_tokens_decoder().items()
        self.special_tokens = {token.content: i for i, token in added if token.special}
        definition = json.loads(tokenizer.to_str())
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
        Path(path).write_text(self.definition, encoding="utf-8")

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.definition.encode()).hexdigest()[:16]

    def encode(self, text: str) -> list[int]:
        return self.encode_many([text])[0]

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, on all processors."""

        def encode() -> list[Encoding]:
            return self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)

        try:
            long = sum(map(len, texts)) > _LONG
            encodings = interruptible(encode) if long else encode()
        except TypeError:  # a str may hold lone surrogates, which no UTF-8 text has
            raise UserError("the text to encode is not valid Unicode") from None
        ids = [encoding.ids for encoding in encodings]
        if self._loses_nothing:
            return ids
        decoded = self._tokenizer.decode_batch(ids, skip_special_tokens=False)
        for text, back in zip(texts, decoded, strict=True):
            if back != text and not self._promised(text, back):
                raise UserError(_loss(text, back))
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)

    def cut(self, text: str, size: int = 1 << 16) -> Iterator[str]:
        return cut(text, size, None if self._by_character else self._apart)

    def _promised(self, text: str, back: str) -> bool:
        """Whether `back` is all that this tokenizer ever promises to give back of `text`."""
        if back == self._normalised(text):  # say to NFC
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
    """Read a `tokenizer.json` or the vocabulary of RWKV World.

    Raises `UserError` if there is no such file, or it is neither.
    """
    path = Path(path)
    try:
        return parse(read_text(path, MOST), path)
    except Missing:
        raise UserError(f"{path}: no such tokenizer file") from None


def parse(text: str, path: Path) -> TextTokenizer:
    """The tokenizer that the text of a file defines; messages name `path`. Raises `UserError`."""
    if not text.lstrip().startswith(("{", "[")):
        return rwkv_world_tokenizer.read_vocabulary(path, text)
    try:
        content = json.loads(text)
        if isinstance(content, dict) and content.get("type") == rwkv_world_tokenizer.KIND:
            return rwkv_world_tokenizer.read_saved(path, content)
        # Ids that no model could have are refused before the library reads them.
        model = content["model"]
        entries = model["vocab"]
        if len(entries) > MOST_IDS:
            raise ValueError(f"{len(entries):,} entries, and {MOST_IDS:,} is the most there may be")
        listed = [*entries.items()] if isinstance(entries, dict) else []
        added = [(token["content"], token["id"]) for token in content.get("added_tokens") or ()]
        for token, i in listed + added:
            if not isinstance(i, int) or not 0 <= i < MOST_IDS:
                raise ValueError(
                    f"the id {i!r} of {token[:40]!r} is not from 0 to {MOST_IDS - 1:,}"
                )
        names = {i: token for token, i in listed}
        for token, i in listed:
            if names[i] != token:
                raise ValueError(f"{token[:40]!r} and {names[i][:40]!r} both have the id {i}")
        return LibraryTokenizer(Tokenizer.from_str(text))
    except UserError:
        raise
    except BaseException as error:  # bare Exception, ValueError on no vocab, Rust's own panics
        if isinstance(error, (KeyboardInterrupt, SystemExit, MemoryError)):
            raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: not a valid tokenizer.json ({reason})") from None


def check_fits(tokenizer: TextTokenizer, vocab_size: int, model: str) -> None:
    """Raise `UserError` if `model` has no embedding for some id of `tokenizer`."""
    if tokenizer.vocab_size > vocab_size:
        raise UserError(
            f"the tokenizer has {tokenizer.vocab_size:,} ids and {model} only {vocab_size:,}: it "
            "was trained with another tokenizer"
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
