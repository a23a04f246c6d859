"""Preparing a corpus: from documents to a folder of tokens, in bounded memory, resumable.

    progress.json      how much of the text of each side is in the files of tokens, shard by shard
    tokenizer.json     made first
    train.bin val.bin  grow

A process that is stopped continues at its last whole shard; every shard is compared with its
digest first. Everything but `progress.json` then belongs to the prepared corpus.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import shutil
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from rich.console import Console
from rich.progress import Progress

from conf.schema import DataConf
from core.errors import UserError
from core.files import own_digest, sync, write_text
from core.parsing import read_object, regular
from core.units import clock
from data import recipes, tokenizers
from data.documents import SIDES, Part, Split
from data.encoding import Encoder, Encodes
from data.foreign import Foreign
from data.manifest import seal
from data.meta import FORMAT, META, TOKENIZER, Meta, token_dtype
from data.text import TextTokenizer

PROGRESS = "progress.json"
SHARD = 64 << 20  # bytes of text after which the work done so far is safe
COMPRESSED = 8 << 20  # bytes of validation text that are compressed for comparison
_COUNTED = 1 << 22  # tokens counted at once
_SPOKEN = 15.0  # seconds between lines of progress where there is no terminal


def fill(
    folder: Path, fingerprint: str, conf: DataConf, split: Split, file: Foreign | None
) -> None:
    """Make `folder` the prepared corpus of `split`, going on where an earlier call was stopped.

    Raises `UserError` for text that the tokenizer cannot represent, and for documents that change
    meanwhile.
    """
    try:
        done = _Done.read(folder, fingerprint)
        with _shown(conf, split, done) as advance:
            tokenizer = done.tokenizer(folder, conf, split, file)
            _encode(folder, split, tokenizer, file, done, advance)
        _finish(folder, fingerprint, conf, split, tokenizer)
    except BaseException:
        if not (folder / PROGRESS).exists():  # nothing to go on with
            shutil.rmtree(folder, ignore_errors=True)
        raise


class _Done:
    """What a folder that is being filled holds for certain."""

    def __init__(self, fingerprint: str) -> None:
        self._fingerprint = fingerprint
        self.shards: list[dict[str, Any]] = []

    @classmethod
    def read(cls, folder: Path, fingerprint: str) -> _Done:
        """Read the progress of an earlier call, and cut what goes beyond it off the files.

        Whatever does not fit is deleted, and the work begins again.
        """
        done = cls(fingerprint)
        try:
            content = read_object(folder / PROGRESS)
            if content["sha256"] != own_digest(content) or content["fingerprint"] != fingerprint:
                raise ValueError("changed, or of another corpus")
            with regular(folder / TOKENIZER) as file:
                if hashlib.sha256(file.read()).hexdigest() != content["tokenizer"]:
                    raise ValueError("another tokenizer")
            done._check(folder, content["shards"])
        except (UserError, OSError, ValueError, TypeError, KeyError, AttributeError):
            done.shards = []
            for path in folder.iterdir():
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        return done

    def _check(self, folder: Path, shards: list[dict[str, Any]]) -> None:
        """Keep the shards whose tokens have their digests, and nothing after them."""
        with ExitStack() as stack:
            files = {side: stack.enter_context(regular(folder / f"{side}.bin")) for side in SIDES}
            for shard in shards:
                found = {}
                for side in SIDES:
                    content = files[side].read(shard[side]["size"] - files[side].tell())
                    found[side] = hashlib.sha256(content).hexdigest()
                if any(found[side] != shard[side]["sha256"] for side in SIDES):
                    break
                self.shards.append(shard)
        for side in SIDES:
            os.truncate(folder / f"{side}.bin", self._last(side, "size"))

    def _last(self, side: str, what: str) -> int:
        count: int = self.shards[-1][side][what] if self.shards else 0
        return count

    def text(self) -> dict[str, int]:
        """Bytes of text of each side that need not be encoded again."""
        return {side: self._last(side, "text") for side in SIDES}

    def tokenizer(
        self, folder: Path, conf: DataConf, split: Split, file: Foreign | None
    ) -> TextTokenizer:
        """The tokenizer of the corpus, made, or read where an earlier call has made it."""
        path = folder / TOKENIZER
        if not self.shards:
            tokenizer = recipes.build(conf, file, split)
            tokenizer.save(path)
            return tokenizer
        return file.tokenizer() if file is not None else tokenizers.load(path)

    def add(self, folder: Path, shard: dict[str, Any]) -> None:
        """Record one more shard, once it is on the disk."""
        self.shards.append(shard)
        tokenizer = hashlib.sha256((folder / TOKENIZER).read_bytes()).hexdigest()
        content = {"fingerprint": self._fingerprint, "tokenizer": tokenizer, "shards": self.shards}
        content["sha256"] = own_digest(content)
        write_text(folder / PROGRESS, json.dumps(content) + "\n")


class _Tokens:
    """One growing file of token ids."""

    def __init__(
        self, file: BinaryIO, encoder: Encodes, tokenizer: TextTokenizer, text: int
    ) -> None:
        """`text` bytes are in the file already."""
        self._file, self._encoder, self._text = file, encoder, text
        self._dtype = np.dtype(token_dtype(tokenizer.vocab_size))
        end = tokenizer.end_of_text
        self._separator = [] if end is None else [end]
        self._digest = hashlib.sha256()  # of the present shard

    def push(self, part: Part) -> int:
        """Write the ids that are certain after a part of a document; bytes of text they encode."""
        if part.ids is not None:
            text = self.flush()
            before = self._separator if part.begins else []
            ids = np.concatenate([np.array(before, np.uint32), part.ids])
            return text + self._write(iter([(ids, len(part.content))]))
        return self._write(self._encoder.push(part.content.decode(), part.begins, part.ends))

    def flush(self) -> int:
        """Write all ids that can be; returns the bytes of text they encode."""
        return self._write(self._encoder.flush())

    def end_shard(self) -> dict[str, Any]:
        """Put everything on the disk: text and tokens in the file, and a digest of the new ones."""
        self._file.flush()
        os.fsync(self._file.fileno())
        digest, self._digest = self._digest.hexdigest(), hashlib.sha256()
        return {"text": self._text, "size": self._file.tell(), "sha256": digest}

    def _write(self, encoded: Iterator[Any]) -> int:
        text = 0
        for ids, size in encoded:
            content = np.frombuffer(ids, dtype=np.uint32).astype(self._dtype).tobytes()
            self._file.write(content)
            self._digest.update(content)
            text += size
        self._text += text
        return text


def _encode(
    folder: Path,
    split: Split,
    tokenizer: TextTokenizer,
    file: Foreign | None,
    done: _Done,
    advance: Any,
) -> None:
    with ExitStack() as stack:
        sides = {}
        for side in SIDES:
            target = stack.enter_context((folder / f"{side}.bin").open("ab"))
            encoder = Encoder(tokenizer) if file is None else file.encoder()
            sides[side] = _Tokens(target, encoder, tokenizer, done.text()[side])
        unsaved = 0
        for part in split.parts(done.text()):
            advance(sides[part.side].push(part))
            unsaved += len(part.content)
            if unsaved >= SHARD:
                advance(sum(tokens.flush() for tokens in sides.values()))
                done.add(folder, {side: tokens.end_shard() for side, tokens in sides.items()})
                unsaved = 0
        for tokens in sides.values():
            advance(tokens.flush())


def _finish(
    folder: Path, fingerprint: str, conf: DataConf, split: Split, tokenizer: TextTokenizer
) -> None:
    dtype = token_dtype(tokenizer.vocab_size)
    size = np.dtype(dtype).itemsize
    train, val = (split.side(side) for side in SIDES)
    tokens = {side: (folder / f"{side}.bin").stat().st_size // size for side in SIDES}
    compressed, gzipped, xzipped = _compressed(split)
    meta = Meta(
        format=FORMAT,
        corpus=conf.corpus,
        fingerprint=fingerprint,
        tokenizer=conf.tokenizer,
        tokenizer_fingerprint=tokenizer.fingerprint,
        vocab_size=tokenizer.vocab_size,
        dtype=dtype,
        train_documents=train.documents,
        val_documents=val.documents,
        train_bytes=train.bytes,
        val_bytes=val.bytes,
        train_tokens=tokens["train"],
        val_tokens=tokens["val"],
        val_tokens_per_byte=tokens["val"] / val.bytes,
        unigram_entropy=unigram_entropy(np.memmap(folder / "val.bin", dtype=dtype, mode="r")),
        gzip_bits_per_byte=8 * gzipped / compressed,
        xz_bits_per_byte=8 * xzipped / compressed,
    )
    (folder / META).write_text(json.dumps(asdict(meta), indent=2) + "\n", encoding="utf-8")
    (folder / PROGRESS).unlink(missing_ok=True)
    sync(folder)
    seal(folder, fingerprint)
    say(
        f"prepared {conf.corpus}: {meta.train_tokens:,} training and {meta.val_tokens:,} "
        f"validation tokens of a {meta.vocab_size:,}-entry vocabulary"
    )
    if conf.tokenizer == "bpe" and meta.vocab_size < conf.vocab_size:
        say(f"the text is too short for data.vocab_size={conf.vocab_size}: use {meta.vocab_size}")


def _compressed(split: Split) -> tuple[int, int, int]:
    """Bytes of the first validation text, and of it in one stream by `gzip -9` and by `xz -9`."""
    gzip, xz = zlib.compressobj(9, wbits=31), lzma.LZMACompressor(preset=9)
    size = gzipped = xzipped = 0
    for part in split.parts(side="val"):
        content = part.content[: COMPRESSED - size]
        size += len(content)
        gzipped += len(gzip.compress(content))
        xzipped += len(xz.compress(content))
        if size >= COMPRESSED:
            break
    return size, gzipped + len(gzip.flush()), xzipped + len(xz.flush())


def unigram_entropy(tokens: np.ndarray) -> float:
    """Entropy in nats per token of `tokens[T]` under their own frequencies: -sum p ln p."""
    counts = np.zeros(int(tokens.max()) + 1, dtype=np.int64)
    for first in range(0, tokens.size, _COUNTED):
        counts += np.bincount(tokens[first : first + _COUNTED], minlength=len(counts))
    p = counts[counts > 0] / tokens.size
    return float(-(p * np.log(p)).sum())


@contextmanager
def _shown(conf: DataConf, split: Split, done: _Done) -> Iterator[Any]:
    """Show progress and the time left; the body is given a function to tell of encoded bytes."""
    total = sum(split.side(side).bytes for side in SIDES)
    before = sum(done.text().values())
    if before:
        say(f"going on with the preparation of {conf.corpus} at {before / total:.0%}")
    console = Console(stderr=True)
    if console.is_terminal:
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task(f"preparing {conf.corpus}", total=total, completed=before)
            yield lambda size: progress.advance(task, size)
        return
    begun = spoken = time.monotonic()
    encoded = 0

    def advance(size: int) -> None:
        nonlocal encoded, spoken
        encoded += size
        now = time.monotonic()
        if encoded and now - spoken >= _SPOKEN:
            spoken = now
            left = (total - before - encoded) * (now - begun) / encoded
            share = (before + encoded) / total
            say(f"preparing {conf.corpus}: {share:.0%}, {clock(left)} left")

    yield advance


def say(line: str) -> None:
    """Print a line to the console."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(line, markup=False)
