"""The prepared corpus: tokens on disk, read where they lie, made once and checked on opening.

    CACHE_DIR/FINGERPRINT/
        train.bin  val.bin   token ids, uint16 (uint32 for more than 65,536 entries), nothing else
        train.mask val.mask  uint8 for each token, 1 where it is learned; only if some are not
        tokenizer.json
        meta.json            `Meta`
        manifest.json        what all of them must be, see `data.manifest`

The fingerprint covers every document, the split and the tokenizer, so a folder is never out of
date; it appears by one rename (see `data.preparation`), so it is never half there. One that does
not fit its manifest, or the documents, is made again.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from conf.schema import DataConf
from core.atomic_folders import make_folder
from core.errors import UserError
from core.files import sweep
from core.processes import return_free_memory
from data import corpora, recipes, separate_process, tokenizers
from data.documents import SIDES, Split
from data.file_change_guard import FileChangeGuard
from data.foreign import Foreign
from data.known_files import Outline, Survey
from data.manifest import MASKS, Blocks, Unfit, open_sealed
from data.meta import FORMAT, MASK_DTYPE, META, TOKENIZER, Meta, token_dtype
from data.notices import say
from data.preparation import fill
from data.shards import PROGRESS
from data.text import TextTokenizer
from data.token_file import TokenFile


@dataclass(frozen=True)
class Corpus:
    """A prepared corpus. Its tokens are proven where they are first read, in each process.

    Raises `UserError` then if they are not what was prepared.
    """

    folder: Path
    meta: Meta
    tokenizer: TextTokenizer
    blocks: dict[str, Blocks] = field(repr=False)
    """The digests of each file of tokens."""
    watch: FileChangeGuard = field(init=False, repr=False)
    """Size and time of each file of tokens, when it was last found sound."""

    def __post_init__(self) -> None:
        watch = FileChangeGuard(self.folder / name for name in self.blocks)
        object.__setattr__(self, "watch", watch)

    @property
    def fingerprint(self) -> str:
        """16 hex digits over documents, split and tokenizer."""
        return self.meta.fingerprint

    @property
    def vocab_size(self) -> int:
        """Number of token ids a model of this corpus needs."""
        return self.meta.vocab_size

    @property
    def masked(self) -> bool:
        """Whether some tokens are read and not learned."""
        return MASKS[0] in self.blocks

    @cached_property
    def train(self) -> TokenFile:
        """Training tokens `[train_tokens]`."""
        return self._file("train.bin", self.meta.dtype)

    @cached_property
    def train_mask(self) -> TokenFile:
        """1 for each training token that is learned, else 0: uint8 `[train_tokens]`."""
        return self._file("train.mask", MASK_DTYPE)

    @cached_property
    def val(self) -> TokenFile:
        """Validation tokens `[val_tokens]`."""
        return self._file("val.bin", self.meta.dtype)

    @cached_property
    def val_mask(self) -> TokenFile:
        """1 for each validation token that is learned, else 0: uint8 `[val_tokens]`."""
        return self._file("val.mask", MASK_DTYPE)

    def _file(self, name: str, dtype: str) -> TokenFile:
        return TokenFile(self.folder / name, dtype, self.blocks[name], self.watch)


def prepare(conf: DataConf, title: str = "") -> Corpus:
    """The corpus of `conf`, tokenized: opened if it has been prepared before, made if not.

    `title` is what it is called while that is done, by default `conf.corpus`.

    Any number of processes may call this at once. Raises `UserError` for a corpus or tokenizer that
    cannot be used, for text the tokenizer cannot represent, and for `conf.length` too long.
    """
    survey = Survey(conf, corpora.documents(conf))
    outline = survey.outline
    with ExitStack() as stack:
        file = recipes.foreign(conf)
        if file is not None:
            stack.enter_context(file)
        corpus = _opened(conf, outline, file) if outline is not None else None
        if corpus is None:
            split = survey.split()
            if outline is None or outline.fingerprint != split.fingerprint:
                corpus = _opened(conf, split, file)
            corpus = corpus or _make(conf, split, file, title or conf.corpus)
    meta = corpus.meta
    validates_only = conf.val_fraction == 1
    sides = [] if validates_only else [meta.train_tokens]
    shortest = min([*sides, meta.val_tokens] if conf.val_fraction else sides)
    if conf.length < 1:
        raise UserError(f"data.length={conf.length}: must be at least 1")
    if conf.length + 1 > shortest and conf.val_fraction in (0, 1):
        raise UserError(
            f"data.length={conf.length} needs {conf.length + 1:,} tokens in a row, and this text "
            f"has {shortest:,}: give more text, or lower data.length"
        )
    if conf.length + 1 > shortest:
        lower = f"lower data.length to {shortest - 1:,} or less, " if shortest > 1 else ""
        raise UserError(
            f"data.length={conf.length} needs {conf.length + 1:,} tokens in a row, but there are "
            f"{meta.train_tokens:,} for training and {meta.val_tokens:,} for validation: "
            f"{lower}give more text or change "
            f"data.val_fraction={conf.val_fraction}"
        )
    return corpus


def _opened(conf: DataConf, split: Split | Outline, file: Foreign | None) -> Corpus | None:
    """The corpus, if it has been prepared; one that is damaged is told of."""
    for recipe in recipes.possible(conf, file):
        folder, fingerprint = _place(conf, split, recipe)
        try:
            return open_folder(folder, fingerprint, split, whole=conf.verify)
        except Unfit as problem:
            if os.path.lexists(folder):
                say(f"prepared corpus {folder} is damaged ({problem}): making it again")
    return None


def _place(conf: DataConf, split: Split | Outline, recipe: str) -> tuple[Path, str]:
    """The folder of a corpus, and the fingerprint that is its name."""
    key = f"{FORMAT} {split.fingerprint} {recipe}"
    fingerprint = hashlib.sha256(key.encode()).hexdigest()[:16]
    return Path(conf.cache_dir) / fingerprint, fingerprint


def open_folder(
    folder: Path, fingerprint: str, split: Split | Outline, whole: bool = False
) -> Corpus:
    """The prepared corpus that lies in `folder`.

    `whole` reads all of its tokens, not samples of them. Raises `data.manifest.Unfit` if there is
    none, it is damaged in any way, or it is not made of these documents.
    """
    opened = open_sealed(folder, fingerprint, (META, TOKENIZER), whole)
    try:
        meta = Meta(**json.loads(opened.contents[META]))
        tokenizer = tokenizers.parse(opened.contents[TOKENIZER].decode(), folder / TOKENIZER)
        corpus = Corpus(folder, meta, tokenizer, opened.blocks)
        # What `meta.json` says otherwise than the documents, the tokenizer and the files.
        meta, dtype = corpus.meta, token_dtype(corpus.tokenizer.vocab_size)
        expected: dict[str, object] = {
            "format": FORMAT,
            "fingerprint": fingerprint,
            "vocab_size": corpus.tokenizer.vocab_size,
            "dtype": dtype,
        }
        for side in SIDES:
            size = (corpus.folder / f"{side}.bin").stat().st_size
            expected[f"{side}_documents"], expected[f"{side}_bytes"] = split.side(side)
            expected[f"{side}_tokens"] = size / np.dtype(dtype).itemsize
            if (getattr(meta, f"{side}_learned") is not None) != corpus.masked:
                raise ValueError(f"{META} and the masks do not belong together")
            if (
                corpus.masked
                and (folder / f"{side}.mask").stat().st_size != expected[f"{side}_tokens"]
            ):
                raise ValueError(f"{side}.mask has not one byte for each token")
        wrong = [key for key, value in expected.items() if getattr(meta, key) != value]
        problem = f"{META}: {wrong[0]}={getattr(meta, wrong[0])!r}" if wrong else None
    except (OSError, ValueError, TypeError, RecursionError, UserError) as error:
        problem = f"{type(error).__name__}: {error}"
    if problem:
        raise Unfit(problem)
    return corpus


def _make(conf: DataConf, split: Split, file: Foreign | None, title: str) -> Corpus:
    """Tokenize the documents into their folder, in place of whatever is there."""
    recipe = recipes.chosen(conf, file, split)
    folder, fingerprint = _place(conf, split, recipe)

    def sound(candidate: Path) -> bool:
        try:  # whole: what a sample passes may be why it is made again
            open_folder(candidate, fingerprint, split, whole=True)
        except Unfit:
            return False
        return True

    def make(aside: Path) -> None:
        sweep(aside)
        if not sound(aside):  # else a process was stopped in its last moment
            if sum(split.side(side).bytes for side in SIDES) >= separate_process.LARGE:
                if file is not None:
                    file.close()
                separate_process.fill_apart(aside, fingerprint, conf, split, recipe, title)
            else:
                fill(aside, fingerprint, conf, split, file, title)
        (aside / PROGRESS).unlink(missing_ok=True)

    try:
        make_folder(
            folder,
            make,
            sound,
            lambda: say(f"another process prepares {folder}: waiting for it"),
        )
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise UserError(
            f"data.cache_dir={conf.cache_dir}: cannot store the prepared corpus there ({error}): "
            "make room or choose another folder"
        ) from None
    return_free_memory()  # gigabytes, of a process that may go on to train for weeks
    try:
        return open_folder(folder, fingerprint, split)
    except Unfit as problem:
        raise UserError(
            f"{folder} has just been prepared and is damaged already ({problem}): the disk or the "
            "memory is at fault, or another program writes there"
        ) from None
