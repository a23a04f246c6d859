"""Tokenizers: every kind is a `tokenizers.Tokenizer`, saved as one `tokenizer.json`.

`bpe` is trained on the training documents, `bytes` and `chars` need no training, and anything else
is the path of a `tokenizer.json` made elsewhere.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from conf.schema import DataConf
from models.errors import UserError

# The tokenizers library uses threads, and warns in every process forked afterwards unless this is
# set. The forked processes here are loader workers, which read tokens and never tokenize.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

END_OF_TEXT = "<|endoftext|>"
_KNOWN_ENDS = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[EOS]")
_REPLACEMENT = "\ufffd"  # what an incomplete or invalid UTF-8 sequence decodes to

TRAINING_SAMPLE = 32 << 20
"""Bytes of text a BPE is trained on at most; beyond it, pieces are drawn by their hash."""


class TextTokenizer:
    """Text to token ids and back, without loss.

    Special tokens that occur in a text are encoded as the plain text they are: only the store puts
    `end_of_text` between documents.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = True  # not part of tokenizer.json
        self._tokenizer = tokenizer
        vocab = tokenizer.get_vocab(with_added_tokens=True)
        self.vocab_size: int = max(vocab.values()) + 1
        self.end_of_text: int | None = next((vocab[t] for t in _KNOWN_ENDS if t in vocab), None)

    @classmethod
    def load(cls, path: str | Path) -> TextTokenizer:
        """Read a `tokenizer.json`. Raises `UserError` if it is missing or not one."""
        if not Path(path).is_file():
            raise UserError(f"{path}: no such tokenizer file")
        try:
            return cls(Tokenizer.from_file(str(path)))
        except Exception as error:  # the library raises bare Exception, and ValueError on no vocab
            raise UserError(f"{path}: not a valid tokenizer.json ({error})") from None

    def save(self, path: str | Path) -> None:
        """Write `tokenizer.json`; `load` gives a tokenizer of the same fingerprint."""
        Path(path).write_text(self._tokenizer.to_str(), encoding="utf-8")

    @property
    def fingerprint(self) -> str:
        """16 hex digits over the whole definition."""
        return hashlib.sha256(self._tokenizer.to_str().encode()).hexdigest()[:16]

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`. Raises `UserError` naming a character it cannot represent."""
        return self.encode_many([text])[0]

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, on all processors."""
        try:
            encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        except TypeError:  # a str may hold lone surrogates, which no UTF-8 text has
            raise UserError("the text to encode is not valid Unicode") from None
        ids = [encoding.ids for encoding in encodings]
        decoded = self._tokenizer.decode_batch(ids, skip_special_tokens=False)
        for text, back in zip(texts, decoded, strict=True):
            if back != text and back != self._normalised(text):
                raise UserError(_loss(text, back))
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; bytes that are not UTF-8 become U+FFFD."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)

    def stream(self) -> StreamDecoder:
        """A decoder for ids that arrive one at a time."""
        return StreamDecoder(self)

    def _normalised(self, text: str) -> str:
        """What a tokenizer that normalises (say to NFC) promises to give back."""
        normalizer = self._tokenizer.normalizer
        return text if normalizer is None else normalizer.normalize_str(text)


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
        certain = text.rstrip(_REPLACEMENT)
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
        if _REPLACEMENT not in alone:
            self._ids, self._shown = [token], len(alone)


def recipe(conf: DataConf) -> str:
    """What, beside the corpus, decides the tokenizer: part of the key of the prepared store."""
    if conf.tokenizer == "bpe":
        return f"bpe {conf.vocab_size}"
    if conf.tokenizer in ("bytes", "chars"):
        return conf.tokenizer
    path = Path(conf.tokenizer)
    if not path.is_file():
        raise UserError(
            f"data.tokenizer={conf.tokenizer!r}: neither bpe, bytes, chars nor a file that exists"
        )
    return f"file {hashlib.sha256(path.read_bytes()).hexdigest()}"


def build(conf: DataConf, train: Iterable[str], val: Iterable[str]) -> TextTokenizer:
    """The tokenizer `conf` asks for, trained on `train` where it is trained.

    `val` only adds to the alphabet of `chars`, as in nanoGPT.
    """
    if conf.tokenizer == "bpe":
        return train_bpe(train, conf.vocab_size)
    if conf.tokenizer == "bytes":
        return byte_tokenizer()
    if conf.tokenizer == "chars":
        return char_tokenizer(set().union(*train, *val))
    return TextTokenizer.load(conf.tokenizer)


def train_bpe(texts: Iterable[str], vocab_size: int) -> TextTokenizer:
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
    pieces = [piece for text in texts for piece in cut(text)]
    tokenizer.train_from_iterator(_sample(pieces, TRAINING_SAMPLE), trainer)
    return TextTokenizer(tokenizer)


def byte_tokenizer() -> TextTokenizer:
    """Token ids are byte values; 256 ends a text."""
    vocab = {symbol: byte for byte, symbol in enumerate(_byte_symbols())}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END_OF_TEXT])
    return TextTokenizer(tokenizer)


def char_tokenizer(characters: Iterable[str]) -> TextTokenizer:
    """One token per character, ids in code point order, nothing else: no end of text."""
    vocab = {character: i for i, character in enumerate(sorted(set(characters)))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.decoder = decoders.Fuse()
    return TextTokenizer(tokenizer)


_BETWEEN_WORDS = re.compile(r"(?<=\S)(?= \S)|(?<=\S\n)(?=\S)")


def cut(text: str, size: int = 1 << 16) -> Iterator[str]:
    """`text` in pieces of about `size` characters, so that they can be encoded in parallel.

    Cut where GPT-2's pattern always separates words, so a byte-level BPE gives the same tokens.
    """
    start = 0
    while len(text) - start > size and (found := _BETWEEN_WORDS.search(text, start + size)):
        yield text[start : found.start()]
        start = found.start()
    if start < len(text):
        yield text[start:]


def _sample(pieces: list[str], limit: int) -> list[str]:
    """All pieces, or those of the smallest hashes that together stay within `limit` bytes."""
    if sum(len(piece.encode()) for piece in pieces) <= limit:
        return pieces
    chosen, room = [], limit
    for piece in sorted(pieces, key=lambda piece: hashlib.sha256(piece.encode()).digest()):
        room -= len(piece.encode())
        if room < 0:
            break
        chosen.append(piece)
    return chosen or pieces[:1]


def _byte_symbols() -> list[str]:
    """The printable character that stands for each byte 0..255 in byte-level vocabularies.

    Printable Latin-1 stands for itself; the other bytes take U+0100 onwards, in order (GPT-2).
    """
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    spare = iter(sorted(symbol for symbol in alphabet if ord(symbol) > 255))
    return [chr(byte) if chr(byte) in alphabet else next(spare) for byte in range(256)]


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
