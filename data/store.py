"""The prepared corpus: tokens on disk, memory-mapped, made once and checked on every opening.

    CACHE_DIR/FINGERPRINT/
        train.bin  val.bin   token ids, uint16 (uint32 for more than 65,536 entries), nothing else
        tokenizer.json
        meta.json            `Meta`
        manifest.json        what all of them must be, see `data.manifest`

The fingerprint covers every document, the split and the tokenizer, so a folder is never out of
date; it appears by one rename, so it is never half there. One that does not fit its manifest, or
the documents, is made again.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress

from conf.schema import DataConf
from core.atomic_folders import make_folder
from core.errors import UserError
from data import corpora, recipes, tokenizers
from data.corpora import Document, Split
from data.encoding import encoded
from data.file_change_guard import FileChangeGuard
from data.foreign import Foreign
from data.manifest import TOKENS, Blocks, Unfit, open_sealed, seal
from data.text import TextTokenizer

FORMAT = 1  # of the folder; raise it when the same corpus would be stored differently

_TOKENIZER, _META = "tokenizer.json", "meta.json"


@dataclass(frozen=True)
class Meta:
    """What a prepared corpus is, and how hard its validation text is for simple compressors."""

    format: int
    corpus: str
    fingerprint: str
    tokenizer: str
    tokenizer_fingerprint: str
    vocab_size: int
    dtype: str
    train_documents: int
    val_documents: int
    train_bytes: int
    val_bytes: int
    train_tokens: int
    """Including the end-of-text token before each document."""
    val_tokens: int
    val_tokens_per_byte: float
    """Times nats per token, divided by ln 2: bits per byte, comparable across tokenizers."""
    unigram_entropy: float
    """Nats per validation token under the validation tokens' own frequencies."""
    gzip_bits_per_byte: float
    """Bits per byte of the validation documents in one stream, by `gzip -9`."""
    xz_bits_per_byte: float
    """Bits per byte by `xz -9`."""


@dataclass(frozen=True)
class Corpus:
    """A prepared corpus. Its token arrays are opened, and proven, when first asked for.

    That is in each process. Raises `UserError` then if they are not what was prepared.
    """

    folder: Path
    meta: Meta
    tokenizer: TextTokenizer
    blocks: dict[str, Blocks] = field(repr=False)
    """The digests of each file of tokens."""
    watch: FileChangeGuard = field(init=False, repr=False)
    """Size and time of each file of tokens, when it was last found sound."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "watch", FileChangeGuard(self.folder / name for name in TOKENS))

    @property
    def fingerprint(self) -> str:
        """16 hex digits over documents, split and tokenizer."""
        return self.meta.fingerprint

    @property
    def vocab_size(self) -> int:
        """Number of token ids a model of this corpus needs."""
        return self.meta.vocab_size

    @cached_property
    def train(self) -> np.memmap:
        """Training tokens `[train_tokens]`, read-only."""
        return self._tokens("train.bin")

    @cached_property
    def val(self) -> np.memmap:
        """Validation tokens `[val_tokens]`, read-only."""
        return self._tokens("val.bin")

    def _tokens(self, name: str) -> np.memmap:
        self.watch.check()  # before reading, or a file cut short would end the process
        tokens = np.memmap(self.folder / name, dtype=self.meta.dtype, mode="r")
        self.blocks[name].prove(tokens.view(np.uint8), [0], tokens.nbytes)
        self.watch.check()
        return tokens


def prepare(conf: DataConf) -> Corpus:
    """The corpus of `conf`, tokenized: opened if it has been prepared before, made if not.

    Any number of processes may call this at once. Raises `UserError` for a corpus or tokenizer that
    cannot be used, for text the tokenizer cannot represent, and for `conf.length` too long.
    """
    split = corpora.load(conf)
    with ExitStack() as stack:
        file = recipes.foreign(conf)
        if file is not None:
            stack.enter_context(file)
        corpus = None
        for recipe in recipes.possible(conf, file):
            folder, fingerprint = _place(conf, split, recipe)
            try:
                corpus = open_folder(folder, fingerprint, split, whole=conf.verify)
                break
            except Unfit as problem:
                if os.path.lexists(folder):
                    _say(f"prepared corpus {folder} is damaged ({problem}): making it again")
        corpus = corpus or _make(conf, split, file)
    meta = corpus.meta
    shortest = min(meta.train_tokens, meta.val_tokens)
    if conf.length < 1:
        raise UserError(f"data.length={conf.length}: must be at least 1")
    if conf.length + 1 > shortest:
        raise UserError(
            f"data.length={conf.length} needs {conf.length + 1:,} tokens in a row, but there are "
            f"{meta.train_tokens:,} for training and {meta.val_tokens:,} for validation: lower "
            f"data.length to {shortest - 1:,} or less, give more text or change "
            f"data.val_fraction={conf.val_fraction}"
        )
    return corpus


def _place(conf: DataConf, split: Split, recipe: str) -> tuple[Path, str]:
    """The folder of a corpus, and the fingerprint that is its name."""
    key = f"{FORMAT} {split.fingerprint} {recipe}"
    fingerprint = hashlib.sha256(key.encode()).hexdigest()[:16]
    return Path(conf.cache_dir) / fingerprint, fingerprint


def open_folder(folder: Path, fingerprint: str, split: Split, whole: bool = False) -> Corpus:
    """The prepared corpus that lies in `folder`.

    `whole` reads all of its tokens, not samples of them. Raises `data.manifest.Unfit` if there is
    none, it is damaged in any way, or it is not made of these documents.
    """
    opened = open_sealed(folder, fingerprint, (_META, _TOKENIZER), whole)
    try:
        meta = Meta(**json.loads(opened.contents[_META]))
        tokenizer = tokenizers.parse(opened.contents[_TOKENIZER].decode(), folder / _TOKENIZER)
        corpus = Corpus(folder, meta, tokenizer, opened.blocks)
        # What `meta.json` says otherwise than the documents, the tokenizer and the files.
        meta, dtype = corpus.meta, _dtype(corpus.tokenizer)
        expected: dict[str, object] = {
            "format": FORMAT,
            "fingerprint": fingerprint,
            "vocab_size": corpus.tokenizer.vocab_size,
            "dtype": dtype,
        }
        for side, documents in (("train", split.train), ("val", split.val)):
            size = (corpus.folder / f"{side}.bin").stat().st_size
            expected[f"{side}_documents"] = len(documents)
            expected[f"{side}_bytes"] = _size(documents)
            expected[f"{side}_tokens"] = size / np.dtype(dtype).itemsize
        wrong = [key for key, value in expected.items() if getattr(meta, key) != value]
        problem = f"{_META}: {wrong[0]}={getattr(meta, wrong[0])!r}" if wrong else None
    except (OSError, ValueError, TypeError, RecursionError, UserError) as error:
        problem = f"{type(error).__name__}: {error}"
    if problem:
        raise Unfit(problem)
    return corpus


def _make(conf: DataConf, split: Split, file: Foreign | None) -> Corpus:
    """Tokenize the documents into their folder, in place of whatever is there."""
    recipe = recipes.chosen(conf, file, (*split.val, *split.train))
    folder, fingerprint = _place(conf, split, recipe)

    def sound(candidate: Path) -> bool:
        try:  # whole: what a sample passes may be why it is made again
            open_folder(candidate, fingerprint, split, whole=True)
        except Unfit:
            return False
        return True

    try:
        make_folder(folder, lambda aside: _fill(aside, fingerprint, conf, split, file), sound)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise UserError(
            f"data.cache_dir={conf.cache_dir}: cannot store the prepared corpus there ({error})"
        ) from None
    try:
        return open_folder(folder, fingerprint, split)
    except Unfit as problem:
        raise UserError(
            f"{folder} has just been prepared and is damaged already ({problem}): the disk or the "
            "memory is at fault, or another program writes there"
        ) from None


def _fill(
    folder: Path, fingerprint: str, conf: DataConf, split: Split, file: Foreign | None
) -> None:
    sizes = {side: _size(getattr(split, side)) for side in ("train", "val")}
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        training = progress.add_task(f"tokenizer ({Path(conf.tokenizer).name})", total=None)
        tokenizer = recipes.build(conf, file, _texts(split.train), _texts(split.val))
        progress.update(training, total=1, completed=1)

        encoding = progress.add_task("encoding", total=sum(sizes.values()))
        dtype = _dtype(tokenizer)
        tokens = {
            side: _write_tokens(
                folder / f"{side}.bin",
                file.encoded(texts) if file is not None else encoded(texts, tokenizer),
                dtype,
                lambda done: progress.advance(encoding, done),
            )
            for side, texts in (("train", _texts(split.train)), ("val", _texts(split.val)))
        }
        held_out = b"".join(doc.content for doc in split.val)
        comparing = progress.add_task("gzip and xz of the validation text", total=None)
        gzipped, xzipped = len(gzip.compress(held_out, 9)), len(lzma.compress(held_out, preset=9))
        progress.update(comparing, total=1, completed=1)

    tokenizer.save(folder / _TOKENIZER)
    val = np.fromfile(folder / "val.bin", dtype=dtype)
    meta = Meta(
        format=FORMAT,
        corpus=conf.corpus,
        fingerprint=fingerprint,
        tokenizer=conf.tokenizer,
        tokenizer_fingerprint=tokenizer.fingerprint,
        vocab_size=tokenizer.vocab_size,
        dtype=dtype,
        train_documents=len(split.train),
        val_documents=len(split.val),
        train_bytes=sizes["train"],
        val_bytes=sizes["val"],
        train_tokens=tokens["train"],
        val_tokens=tokens["val"],
        val_tokens_per_byte=tokens["val"] / sizes["val"],
        unigram_entropy=unigram_entropy(val),
        gzip_bits_per_byte=8 * gzipped / sizes["val"],
        xz_bits_per_byte=8 * xzipped / sizes["val"],
    )
    (folder / _META).write_text(json.dumps(asdict(meta), indent=2) + "\n", encoding="utf-8")
    seal(folder, fingerprint)
    _say(
        f"prepared {conf.corpus}: {meta.train_tokens:,} training and {meta.val_tokens:,} "
        f"validation tokens of a {meta.vocab_size:,}-entry vocabulary"
    )
    if conf.tokenizer == "bpe" and meta.vocab_size < conf.vocab_size:
        _say(f"the text is too short for data.vocab_size={conf.vocab_size}: use {meta.vocab_size}")


def unigram_entropy(tokens: np.ndarray) -> float:
    """Entropy in nats per token of `tokens[T]` under their own frequencies: -sum p ln p."""
    counts = np.bincount(tokens)
    p = counts[counts > 0] / tokens.size
    return float(-(p * np.log(p)).sum())


def _texts(documents: Sequence[Document]) -> Iterator[str]:
    return (doc.content.decode() for doc in documents)


def _write_tokens(
    path: Path,
    parts: Iterable[tuple[array[int], int]],
    dtype: str,
    advance: Callable[[int], None],
) -> int:
    """Write the ids of each part, telling how many bytes of text it is; returns the token count."""
    count = 0
    with path.open("wb") as file:
        for ids, size in parts:
            np.frombuffer(ids, dtype=np.uint32).astype(dtype).tofile(file)
            count += len(ids)
            advance(size)
    return count


def _dtype(tokenizer: TextTokenizer) -> str:
    """The dtype of token ids on disk."""
    return "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32"


def _size(documents: Sequence[Document]) -> int:
    """Bytes of text."""
    return sum(len(doc.content) for doc in documents)


def _say(line: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(line, markup=False)
