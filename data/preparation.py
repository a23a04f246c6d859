"""Preparing a corpus: from documents to a folder of tokens, in bounded memory, resumable.

Text is encoded in shards (see `data.shards`). A process that is stopped continues at its last whole
shard. Everything but `progress.json`, which goes last, belongs to the prepared corpus.
"""

from __future__ import annotations

import json
import lzma
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
from core.units import clock
from data import recipes
from data.documents import SIDES, Reading, Split
from data.encoding import Encoder
from data.foreign import Foreign
from data.interruptible import Call
from data.manifest import MANIFEST, seal
from data.meta import FORMAT, MASK_DTYPE, META, Meta, token_dtype
from data.notices import say
from data.shards import PROGRESS, Done, Tokens
from data.text import TextTokenizer

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
        done = Done.read(folder, fingerprint, split)
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


def _encode(
    folder: Path,
    conf: DataConf,
    split: Split,
    tokenizer: TextTokenizer,
    file: Foreign | None,
    done: Done,
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
            sides[side] = Tokens(conf, targets, encoder, tokenizer, done.text()[side])
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
def _shown(title: str, split: Split, done: Done) -> Iterator[Any]:
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
