"""Preparing a corpus: from documents to a folder of tokens, in bounded memory, resumable.

    progress.json      how much of the text of each side is in the files of tokens, shard by shard
    tokenizer.json     made first
    train.bin val.bin  grow, and train.mask val.mask where some text is not learned

A process that is stopped continues at its last whole shard; every shard is compared with its
digest first. Everything but `progress.json`, which goes last, belongs to the prepared corpus.
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
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from rich.console import Console
from rich.progress import Progress

from conf.schema import DataConf
from core.errors import UserError
from core.files import own_digest, write_text
from core.parsing import read_object, regular
from core.units import clock
from data import recipes, tokenizers
from data.documents import SIDES, Part, Reading, Split
from data.encoding import AFTER_NOT_LEARNED, READ_ONLY, Encoder, Encodes
from data.foreign import Foreign
from data.interruptible import Call
from data.manifest import MANIFEST, seal
from data.meta import FORMAT, MASK_DTYPE, META, TOKENIZER, Meta, token_dtype
from data.notices import say
from data.text import TextTokenizer

PROGRESS = "progress.json"
SHARD = 64 << 20  # bytes of text after which the work done so far is safe
COMPRESSED = 8 << 20  # bytes of validation text that are compressed for comparison
_COUNTED = 1 << 22  # tokens counted at once
_SPOKEN = 15.0  # seconds between lines of progress where there is no terminal


def fill(
    folder: Path,
    fingerprint: str,
    conf: DataConf,
    split: Split,
    file: Foreign | None,
    title: str,
) -> None:
    """Make `folder` the prepared corpus of `split`, going on where an earlier call was stopped.

    The user knows it by its `title`.

    `progress.json` is still there then. Raises `UserError` for text that the tokenizer cannot
    represent, and for documents that change meanwhile.
    """
    try:
        done = _Done.read(folder, fingerprint, split)
        with _shown(title, split, done) as advance:
            tokenizer = done.tokenizer(folder, conf, split, file)
            compressed = Call(partial(_compressed, _first_validation_text(split)))
            _encode(folder, conf, split, tokenizer, file, done, advance)
        _finish(folder, fingerprint, conf, split, tokenizer, compressed.result(), title)
    except BaseException:
        remove_if_useless(folder)
        raise


def remove_if_useless(folder: Path) -> None:
    """Remove a folder whose preparation was stopped, if there is nothing to go on with."""
    if not any((folder / name).exists() for name in (PROGRESS, MANIFEST)):
        shutil.rmtree(folder, ignore_errors=True)


class _Done:
    """What a folder that is being filled holds for certain."""

    def __init__(self, fingerprint: str, masked: bool) -> None:
        self._fingerprint = fingerprint
        self.masked = masked
        self.shards: list[dict[str, Any]] = []

    @classmethod
    def read(cls, folder: Path, fingerprint: str, split: Split) -> _Done:
        """Read the progress of an earlier call, and cut what goes beyond it off the files.

        Whatever does not fit is deleted, and the work begins again: also where the document that
        the call had begun was not what it is now, as that shows only at its end.
        """
        done = cls(fingerprint, split.unlearned is not None)
        try:
            content = read_object(folder / PROGRESS)
            if content["sha256"] != own_digest(content) or content["fingerprint"] != fingerprint:
                raise ValueError("changed, or of another corpus")
            with regular(folder / TOKENIZER) as file:
                if hashlib.sha256(file.read()).hexdigest() != content["tokenizer"]:
                    raise ValueError("another tokenizer")
            done._check(folder, content["shards"])
            if done.shards and not split.has_read(**done.shards[-1]["read"]):
                raise ValueError("of documents that changed")
        except (UserError, OSError, ValueError, TypeError, KeyError, AttributeError):
            done.shards = []
            for path in folder.iterdir():
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        return done

    def _check(self, folder: Path, shards: list[dict[str, Any]]) -> None:
        """Keep the shards whose tokens have their digests, and nothing after them."""
        with ExitStack() as stack:
            files = {
                file: stack.enter_context(regular(folder / file))
                for side in SIDES
                for file in self.files(side)
            }
            for shard in shards:
                found, recorded = {}, {}
                for side in SIDES:
                    for name, of in zip(self.files(side), _entries(shard[side]), strict=True):
                        content = files[name].read(of["size"] - files[name].tell())
                        found[name] = hashlib.sha256(content).hexdigest()
                        recorded[name] = of["sha256"]
                if found != recorded:
                    break
                self.shards.append(shard)
        for side in SIDES:
            entries = _entries(self.shards[-1][side]) if self.shards else []
            sizes = [entry["size"] for entry in entries] or [0, 0]
            for name, size in zip(self.files(side), sizes, strict=False):
                os.truncate(folder / name, size)

    def files(self, side: str) -> list[str]:
        """Tokens of a side, and which of them are learned if not all are."""
        return [f"{side}.bin", f"{side}.mask"] if self.masked else [f"{side}.bin"]

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


def _entries(side: dict[str, Any]) -> list[dict[str, Any]]:
    """Size and digest of each file of a side, as a shard has them."""
    return [side, side["mask"]] if "mask" in side else [side]


class _Growing:
    """A file that is written shard by shard."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()  # of the present shard

    def write(self, content: bytes) -> None:
        self._file.write(content)
        self._digest.update(content)

    def last(self) -> int:
        """The last byte."""
        self._file.flush()
        with Path(self._file.name).open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1)[0]

    def end_shard(self) -> dict[str, Any]:
        """Put everything on the disk; the size of the file, and a digest of what is new."""
        self._file.flush()
        os.fsync(self._file.fileno())
        digest, self._digest = self._digest.hexdigest(), hashlib.sha256()
        return {"size": self._file.tell(), "sha256": digest}


class _Tokens:
    """One growing file of token ids, and one of which are learned if not all are."""

    def __init__(
        self,
        conf: DataConf,
        files: list[BinaryIO],
        encoder: Encodes,
        tokenizer: TextTokenizer,
        text: int,
    ) -> None:
        """`text` bytes are in the files already."""
        self._encoder, self._text = encoder, text
        self._ids, *masks = map(_Growing, files)
        self._mask = masks[0] if masks else None
        self._dtype = np.dtype(token_dtype(tokenizer.vocab_size))
        end = tokenizer.end_of_text
        after = recipes.ends_after(conf)
        as_they_are = after and conf.corpus == "tokens"
        self._separator = [] if end is None or as_they_are else [end]
        # One after each document, and none before the first, is all tokens moved by one place.
        self._moved = after and bool(self._separator)
        self._drops = self._moved and not text

    def push(self, part: Part) -> int:
        """Write the ids that are certain after a part of a document; bytes of text they encode."""
        if part.ids is not None:
            text = self.flush()
            before = np.array(self._separator if part.begins else [], np.uint32)
            if part.mark & AFTER_NOT_LEARNED:
                before |= READ_ONLY
            ids = np.concatenate([before, part.ids])
            return text + self._write(iter([(ids, len(part.content))]))
        encoded = self._encoder.push(part.content.decode(), part.begins, part.ends, part.mark)
        return self._write(encoded)

    def flush(self) -> int:
        """Write all ids that can be; returns the bytes of text they encode."""
        return self._write(self._encoder.flush())

    def end(self) -> None:
        """Write the token that ends the last document, where it stands after it."""
        if not self._moved or self._drops:
            return
        ids = np.array(self._separator, np.uint32)
        if self._mask is not None and not self._mask.last():
            ids |= READ_ONLY
        self._write(iter([(ids, 0)]))

    def end_shard(self) -> dict[str, Any]:
        """Put everything on the disk: text and tokens in the file, and a digest of the new ones."""
        mask = {} if self._mask is None else {"mask": self._mask.end_shard()}
        return {"text": self._text, **self._ids.end_shard(), **mask}

    def _write(self, encoded: Iterator[Any]) -> int:
        text = 0
        for ids, size in encoded:
            tokens: np.ndarray = np.frombuffer(ids, dtype=np.uint32)
            if self._drops and tokens.size:
                tokens, self._drops = tokens[1:], False
            if self._mask is not None:
                self._mask.write((tokens < READ_ONLY).astype(MASK_DTYPE).tobytes())
                tokens = tokens & (READ_ONLY - 1)
            self._ids.write(tokens.astype(self._dtype).tobytes())
            text += size
        self._text += text
        return text


def _encode(
    folder: Path,
    conf: DataConf,
    split: Split,
    tokenizer: TextTokenizer,
    file: Foreign | None,
    done: _Done,
    advance: Any,
) -> None:
    whole = recipes.keeps_whole(conf)
    with ExitStack() as stack:
        sides = {}
        for side in SIDES:
            targets: list[BinaryIO] = [
                stack.enter_context((folder / name).open("ab")) for name in done.files(side)
            ]
            encoder = Encoder(tokenizer, whole=whole) if file is None else file.encoder(whole)
            sides[side] = _Tokens(conf, targets, encoder, tokenizer, done.text()[side])
        unsaved, reading = 0, Reading()
        for part in split.parts(done.text(), reading=reading):
            advance(sides[part.side].push(part))
            unsaved += len(part.content)
            if unsaved >= SHARD:
                advance(sum(tokens.flush() for tokens in sides.values()))
                shard = {side: tokens.end_shard() for side, tokens in sides.items()}
                done.add(folder, {**shard, "read": reading.as_dict()})
                unsaved = 0
        for tokens in sides.values():
            advance(tokens.flush())
            tokens.end()


def _finish(
    folder: Path,
    fingerprint: str,
    conf: DataConf,
    split: Split,
    tokenizer: TextTokenizer,
    compressed: tuple[float, float],
    title: str,
) -> None:
    dtype = token_dtype(tokenizer.vocab_size)
    size = np.dtype(dtype).itemsize
    train, val = (split.side(side) for side in SIDES)
    tokens = {side: (folder / f"{side}.bin").stat().st_size // size for side in SIDES}
    learned_bytes, learned, val_mask = val.bytes, dict.fromkeys(SIDES), None
    if split.unlearned is not None:
        learned_bytes -= split.unlearned["val"]
        learned = {side: _learned(folder / f"{side}.mask", conf) for side in SIDES}
        val_mask = _mapped(folder / "val.mask", MASK_DTYPE)
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
        val_tokens_per_byte=(learned["val"] or tokens["val"]) / max(learned_bytes, 1),
        unigram_entropy=unigram_entropy(_mapped(folder / "val.bin", dtype), val_mask),
        gzip_bits_per_byte=compressed[0],
        xz_bits_per_byte=compressed[1],
        train_learned=learned["train"],
        val_learned=learned["val"],
        end_of_text=conf.end_of_text if recipes.ends_after(conf) else None,
    )
    (folder / META).write_text(json.dumps(meta.as_dict(), indent=2) + "\n", encoding="utf-8")
    seal(folder, fingerprint, leave_out=PROGRESS)
    say(
        f"prepared {title}: {meta.train_tokens:,} training and {meta.val_tokens:,} "
        f"validation tokens of a {meta.vocab_size:,}-entry vocabulary"
    )
    if conf.tokenizer == "bpe" and meta.vocab_size < conf.vocab_size:
        say(f"the text is too short for data.vocab_size={conf.vocab_size}: use {meta.vocab_size}")


def _first_validation_text(split: Split) -> bytes:
    """The first `COMPRESSED` bytes to validate with, or all if there are fewer."""
    text = bytearray()
    for part in split.parts(side="val"):
        text += part.content[: COMPRESSED - len(text)]
        if len(text) >= COMPRESSED:
            break
    return bytes(text)


def _compressed(text: bytes) -> tuple[float, float]:
    """Bits per byte of a text in one stream by `gzip -9`, and by `xz -9`."""
    if not text:  # nothing is held out
        return 0.0, 0.0
    gzip = zlib.compressobj(9, wbits=31)
    # The dictionary of xz -9 has 64 MiB and takes 700 MB of memory; no text here is so long.
    xz = lzma.LZMACompressor(
        filters=[{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": COMPRESSED}]
    )
    gzipped = len(gzip.compress(text)) + len(gzip.flush())
    xzipped = len(xz.compress(text)) + len(xz.flush())
    return 8 * gzipped / len(text), 8 * xzipped / len(text)


def _learned(mask: Path, conf: DataConf) -> int:
    """Tokens that are learned. Raises `UserError` for a text of which none can ever be."""
    if not mask.stat().st_size:  # all text validates, or none
        return 0
    values = np.memmap(mask, MASK_DTYPE, mode="r")
    if not values[1:].any():
        side = "training" if mask.stem == "train" else "validation"
        raise UserError(
            f"data.corpus={conf.corpus}: the {side} text has nothing that is learned: give more "
            f"documents, or change data.val_fraction={conf.val_fraction}"
        )
    return int(np.count_nonzero(values))


def _mapped(path: Path, dtype: str) -> np.ndarray:
    """The array in a file, which may be empty."""
    return np.memmap(path, dtype, mode="r") if path.stat().st_size else np.zeros(0, dtype)


def unigram_entropy(tokens: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Entropy in nats per token of `tokens[T]` under their own frequencies: -sum p ln p.

    With `mask[T]` of those that are not 0 in it.
    """
    if not tokens.size:
        return 0.0
    counts = np.zeros(int(tokens.max()) + 1, dtype=np.int64)
    for first in range(0, tokens.size, _COUNTED):
        part = tokens[first : first + _COUNTED]
        if mask is not None:
            part = part[mask[first : first + _COUNTED] != 0]
        counts += np.bincount(part, minlength=len(counts))
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log(p)).sum())


@contextmanager
def _shown(title: str, split: Split, done: _Done) -> Iterator[Any]:
    """Show progress and the time left; the body is given a function to tell of encoded bytes."""
    total = sum(split.side(side).bytes for side in SIDES)
    before = sum(done.text().values())
    if before:
        say(f"going on with the preparation of {title} at {before / total:.0%}")
    console = Console(stderr=True)
    if console.is_terminal:
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task(f"preparing {title}", total=total, completed=before)
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
            say(f"preparing {title}: {share:.0%}, {clock(left)} left")

    yield advance
