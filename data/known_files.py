"""Corpora that were read before, known again by the size and times of their files.

    CACHE_DIR/known/KEY    a line of JSON, then the columns of a table with a row for each file

KEY follows from the words of the configuration. Whoever changes a file changes its time of change,
which the kernel sets and no program can set back; a file that was written within the last seconds
before it was read is not trusted, as clocks are coarse. Each time some files, drawn anew, are read
and compared with their digests as well.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from conf.schema import READING, DataConf
from core.errors import UserError
from core.files import atomic, sha256, sweep
from core.parsing import Unreadable, parse_json, read_bytes, regular
from data.documents import SIDES, Document, Side, Split
from data.notices import say_once
from data.readers.chat_templates import template_file
from data.splitting import split as split_in_two

FORMAT = 2
SETTLED = 2_000_000_000  # nanoseconds before it was read since which a file must not have changed
FORGOTTEN = 3600.0  # seconds after which nobody is still writing a table
SAMPLES = 8  # files read at every start
SAMPLED = 4 << 20  # bytes of one that is read whole; of a larger one
BLOCKS, BLOCK = 8, 1 << 16  # so many parts of so many bytes
_MOST = 1 << 32  # bytes of a table
_STAMP = 5  # numbers of a stamp


@dataclass(frozen=True)
class Outline:
    """What a split is, without its documents."""

    fingerprint: str
    train: Side
    val: Side
    left_out: str = ""
    """What was said of records that were left out."""

    def side(self, name: str) -> Side:
        """The size of a side."""
        return self.train if name == "train" else self.val


class KnownFiles:
    """The files of a corpus as they are now, and what was found in them when they were read."""

    @classmethod
    def of(cls, conf: DataConf, documents: object) -> KnownFiles | None:
        """Those of `documents`; None if they have none, or not all of them are there.

        Documents that lie in files have `files`, all that decide what they are, and `verbatim`,
        whether each is what one of these holds.
        """
        files: Sequence[str] = getattr(documents, "files", ())
        try:
            return cls(conf, files, getattr(documents, "verbatim", False)) if files else None
        except OSError:
            return None

    def __init__(self, conf: DataConf, files: Sequence[str], verbatim: bool) -> None:
        """Raises `OSError` if a file is gone."""
        reading = [getattr(conf, name.removeprefix("data.")) for name in READING]
        words = [FORMAT, conf.corpus, *reading, conf.val_fraction, str(Path.cwd())]
        if template := template_file(conf):
            words.append(template.decode())
        key = hashlib.sha256(json.dumps(words).encode()).hexdigest()[:16]
        self._path = Path(conf.cache_dir) / "known" / key
        self._files, self._verbatim = files, verbatim
        self._begun = time.time_ns()
        self._names = "\0".join(files).encode()
        self._stamps = stamps(files)

    def find(self) -> Outline | None:
        """What the files held, if they are those that were read; None if that is not certain."""
        try:
            content = read_bytes(self._path, _MOST)
            line, _, table = content.partition(b"\n")
            head = parse_json(line.decode())
            if head["format"] != FORMAT or hashlib.sha256(table).hexdigest() != head["sha256"]:
                return None
            train, val = (Side(*map(int, head[side])) for side in SIDES)
            left_out = str(head.get("left_out", ""))
            outline = Outline(head["fingerprint"], train, val, left_out)
            known = self._stamps.tobytes() + self._names
            digests, rest = table[: 32 * len(self._files)], table[32 * len(self._files) :]
            if rest != known or not self._sampled(digests):
                return None
            return outline
        except (UserError, OSError, ValueError, TypeError, KeyError):
            return None

    def remember(self, split: Split, left_out: str) -> None:
        """Write down what was found in the files, if they have not changed meanwhile, and what was
        said of records that were left out."""
        settled = self._begun - SETTLED
        try:
            if (self._stamps[:, 1:3] > settled).any():
                return
            digests = self._digests(split)
            if not np.array_equal(stamps(self._files), self._stamps):
                return
            table = digests.tobytes() + self._stamps.tobytes() + self._names
            head = {
                "format": FORMAT,
                "fingerprint": split.fingerprint,
                **{side: split.side(side) for side in SIDES},
                "left_out": left_out,
                "sha256": hashlib.sha256(table).hexdigest(),
            }
            sweep(self._path.parent, older=FORGOTTEN)
            with atomic(self._path) as file:
                file.write(json.dumps(head).encode() + b"\n" + table)
        except (OSError, Unreadable):  # it is read again next time
            pass

    def _digests(self, split: Split) -> np.ndarray:
        """What `digest` finds of each file, uint8 `[N, 32]`; of documents it is known already."""
        if self._verbatim and len(split.digests) != len(self._files):
            raise Unreadable(self._path, "is of other files")
        found = split.digests.copy() if self._verbatim else np.zeros((len(self._files), 32), "u1")
        for number, (file, size) in enumerate(zip(self._files, self._stamps[:, 0], strict=True)):
            if not self._verbatim or size > SAMPLED:
                found[number] = np.frombuffer(bytes.fromhex(digest(Path(file), int(size))), "u1")
        return found

    def _sampled(self, digests: bytes) -> bool:
        # A generator of its own: no draw of the training may depend on what is looked at here.
        draw = random.Random(os.urandom(8))
        every = range(len(self._files))
        for number in draw.sample(every, min(SAMPLES, len(every))):
            with suppress(Unreadable):
                found = digest(Path(self._files[number]), int(self._stamps[number, 0]))
                if found == digests[32 * number : 32 * number + 32].hex():
                    continue
            return False
        return True


def digest(path: Path, size: int) -> str:
    """Hexadecimal SHA-256 of a file, or of `BLOCKS` parts of a large one. Raises `Unreadable`."""
    if size <= SAMPLED:
        return sha256(path)
    total = hashlib.sha256()
    with regular(path) as file:
        for number in range(BLOCKS):
            file.seek((size - BLOCK) * number // (BLOCKS - 1))
            total.update(file.read(BLOCK))
    return total.hexdigest()


class Survey:
    """What the documents of a corpus are, read only where that is not known for certain."""

    def __init__(self, conf: DataConf, documents: Iterable[Document]) -> None:
        """With `data.verify` nothing is known."""
        self._conf, self._documents = conf, documents
        self._known = KnownFiles.of(conf, documents)
        self.outline = self._known.find() if self._known is not None and not conf.verify else None
        if self.outline is not None and self.outline.left_out:
            say_once(self.outline.left_out)

    def split(self) -> Split:
        """Read all of them, and remember what was found. Raises as `data.splitting.split`."""
        found = split_in_two(self._documents, self._conf.val_fraction)
        if self._known is not None:
            self._known.remember(found, getattr(self._documents, "left_out", ""))
        return found


def stamps(files: Sequence[str]) -> np.ndarray:
    """Size, times of modification and change, inode and device of each file, int64 `[N, 5]`."""
    found = np.empty((len(files), _STAMP), dtype=np.int64)
    for number, file in enumerate(files):
        status = os.stat(file)  # noqa: PTH116
        found[number] = (
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
            status.st_ino & (2**63 - 1),
            status.st_dev & (2**63 - 1),
        )
    return found
