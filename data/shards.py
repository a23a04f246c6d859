"""What grows while a corpus is prepared, shard by shard.

    progress.json      how much of the text of each side is in the files of tokens
    tokenizer.json     made first
    train.bin val.bin  grow, and train.mask val.mask where some text is not learned

Whoever goes on begins after the last shard whose tokens have the digests that `progress.json` says.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from conf.schema import DataConf
from core.errors import UserError
from core.files import own_digest, write_text
from core.parsing import read_object, regular
from data import recipes, tokenizers
from data.documents import SIDES, Part, Split
from data.encoding import AFTER_NOT_LEARNED, READ_ONLY, Encodes
from data.foreign import Foreign
from data.meta import MASK_DTYPE, TOKENIZER, token_dtype
from data.text import TextTokenizer

PROGRESS = "progress.json"


class Done:
    """What a folder that is being filled holds for certain."""

    def __init__(self, fingerprint: str, masked: bool) -> None:
        self._fingerprint = fingerprint
        self.masked = masked
        self.shards: list[dict[str, Any]] = []

    @classmethod
    def read(cls, folder: Path, fingerprint: str, split: Split) -> Done:
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


class Growing:
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


class Tokens:
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
        self._ids, *masks = map(Growing, files)
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
