"""What proves a prepared folder: a manifest of its files, and a digest of every block of tokens.

    train.blocks  val.blocks   16 bytes of SHA-256 for each 32 KiB of train.bin and val.bin
    train.mask.blocks ...      likewise of the masks, where there are any
    manifest.json              size and SHA-256 of the other files, size and times of the tokens,
                               and a SHA-256 of all that

On opening, everything but the tokens is read whole, and some blocks of tokens, drawn anew each
time, are hashed: all of them if their file's times have changed, or on request. Whoever then reads
tokens has each block hashed before its first use (`Blocks.prove`), so nothing unproven is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.files import own_digest, write_text
from core.parsing import Unreadable, read_bytes, read_object, regular

MANIFEST = "manifest.json"
TOKENS = ("train.bin", "val.bin")
MASKS = ("train.mask", "val.mask")
"""Which tokens are learned, one byte each; only where some are not."""

BLOCK = 1 << 15  # bytes
DIGEST = 16  # bytes of SHA-256
SAMPLES = 16  # blocks of each file of tokens that every opening looks at
_LARGEST = 1 << 30  # bytes of a file that is read whole
_VERSION = 1  # of the manifest


class Unfit(Exception):
    """Why a folder is not the prepared corpus that it should be."""


class Blocks:
    """The digests of one file of tokens, and which of its blocks this process has proven."""

    def __init__(self, path: Path, size: int, digests: bytes) -> None:
        """`size` is that of the file, in bytes. Raises `Unfit` if there are more or fewer."""
        count = -(-size // BLOCK)
        if len(digests) != count * DIGEST:
            raise Unfit(f"{_digests_of(path).name} has {len(digests)} bytes for {count} blocks")
        self.path, self.size, self.count = path, size, count
        self._digests = digests
        self._proven = bytearray(count)

    def prove(
        self, content: Callable[[int, int], bytes], starts: Iterable[int], width: int
    ) -> None:
        """Raise `UserError` unless `width` bytes from each of `starts` are those prepared.

        `content` gives so many bytes from a place on. A file that is another one is prepared again
        at the next start.
        """
        for start in starts:
            for block in range(start // BLOCK, (start + width - 1) // BLOCK + 1):
                if not self._proven[block]:
                    self._prove(content, block)

    def forget(self) -> None:
        """Prove every block anew, as the file may have changed."""
        self._proven = bytearray(self.count)

    def fits(self, block: int, content: bytes) -> bool:
        """Whether the block of that number is `content`."""
        place = slice(block * DIGEST, (block + 1) * DIGEST)
        return hashlib.sha256(content).digest()[:DIGEST] == self._digests[place]

    def _prove(self, content: Callable[[int, int], bytes], block: int) -> None:
        first = block * BLOCK
        if not self.fits(block, content(first, min(BLOCK, self.size - first))):
            with suppress(OSError):  # else its times and the next sample may look right
                self.path.with_name(MANIFEST).unlink()
            raise UserError(
                f"{self.path}: the {BLOCK:,} bytes from {first:,} are not those prepared, and were "
                "not used: disk or memory is damaged, or another program has written there. "
                "The same command prepares it again and continues from the newest checkpoint"
            )
        self._proven[block] = 1


class Opened:
    """A folder whose files are those of its manifest: the small ones whole, and the blocks."""

    def __init__(self, contents: dict[str, bytes], blocks: dict[str, Blocks]) -> None:
        self.contents, self.blocks = contents, blocks


def seal(folder: Path, fingerprint: str, leave_out: str = "") -> None:
    """Write the digests and the manifest of a folder that has everything else.

    The file `leave_out` is no part of it.
    """
    sampled = [name for name in (*TOKENS, *MASKS) if (folder / name).exists()]
    for name in sampled:
        path = folder / name
        with path.open("rb") as file:
            blocks = iter(partial(file.read, BLOCK), b"")
            digests = [hashlib.sha256(block).digest()[:DIGEST] for block in blocks]
        _digests_of(path).write_bytes(b"".join(digests))
    files: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.iterdir()):
        if path.name in sampled:
            files[path.name] = _stamp(path)
        elif path.name not in (MANIFEST, leave_out):
            content = path.read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            files[path.name] = {"bytes": len(content), "sha256": digest}
    _write(folder, fingerprint, files)


def open_sealed(folder: Path, fingerprint: str, names: Iterable[str], whole: bool) -> Opened:
    """Check a folder against its manifest, which must have `names` beside the tokens.

    `whole` hashes every token. Raises `Unfit`; never waits for a pipe or a device.
    """
    try:
        files = _read(folder, fingerprint)
        sampled = [*TOKENS, *(name for name in MASKS if name in files)]
        small = [*names, *(_digests_of(folder / name).name for name in sampled)]
        contents, blocks = {}, {}
        for name in small:
            content = read_bytes(folder / name, min(files[name]["bytes"], _LARGEST))
            digest = hashlib.sha256(content).hexdigest()
            if files[name] != {"bytes": len(content), "sha256": digest}:
                raise Unfit(f"{name} has changed")
            contents[name] = content
        stamps = dict(files)
        for name in sampled:
            path = folder / name
            digests = contents.pop(_digests_of(path).name)
            blocks[name] = Blocks(path, files[name]["bytes"], digests)
            stamps[name] = _check_tokens(blocks[name], files[name], whole)
    except Unreadable as error:
        raise Unfit(f"{error.path.name}: {error.reason}") from None
    except (KeyError, TypeError, AttributeError, OSError) as error:
        raise Unfit(f"{MANIFEST}: {type(error).__name__}: {error}") from None
    if stamps != files:  # copied or touched, and sound: the next opening need not read it all
        with suppress(OSError):
            _write(folder, fingerprint, stamps)
    return Opened(contents, blocks)


def _read(folder: Path, fingerprint: str) -> dict[str, dict[str, Any]]:
    content = read_object(folder / MANIFEST, most=1 << 20)
    if content.get("sha256") != own_digest(content):
        raise Unfit(f"{MANIFEST} has changed")
    if content["version"] != _VERSION:
        raise Unfit(f"{MANIFEST} is of version {content['version']}")
    if content["fingerprint"] != fingerprint:
        raise Unfit(f"it is the corpus {content['fingerprint']}")
    return content["files"]


def _write(folder: Path, fingerprint: str, files: dict[str, dict[str, Any]]) -> None:
    content: dict[str, Any] = {"version": _VERSION, "fingerprint": fingerprint, "files": files}
    content["sha256"] = own_digest(content)
    write_text(folder / MANIFEST, json.dumps(content, indent=2) + "\n")


def _check_tokens(blocks: Blocks, expected: dict[str, Any], whole: bool) -> dict[str, Any]:
    """The size and times of a file of tokens whose blocks fit, or some of them. Raises `Unfit`."""
    with regular(blocks.path) as file:
        stamp = _stamp(blocks.path, file.fileno())
        if stamp["bytes"] != expected["bytes"]:
            raise Unfit(
                f"{blocks.path.name} has {stamp['bytes']:,} bytes instead of {expected['bytes']:,}"
            )
        every = whole or stamp != expected
        # A generator of its own: no draw of the training may depend on what is looked at here.
        draw = random.Random(os.urandom(8))
        chosen = range(blocks.count)
        for block in chosen if every else draw.sample(chosen, min(SAMPLES, blocks.count)):
            file.seek(block * BLOCK)
            if not blocks.fits(block, file.read(BLOCK)):
                raise Unfit(f"{blocks.path.name} has changed at byte {block * BLOCK:,}")
    return stamp


def _stamp(path: Path, descriptor: int | None = None) -> dict[str, Any]:
    """Size and times. The second time is the kernel's own, which no program can set back."""
    status = path.stat() if descriptor is None else os.fstat(descriptor)
    return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "ctime_ns": status.st_ctime_ns}


def _digests_of(path: Path) -> Path:
    return path.with_suffix(".mask.blocks" if path.name in MASKS else ".blocks")
