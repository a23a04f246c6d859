"""Files that are compressed, read as what is in them, by their first bytes."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from core.parsing import Unreadable, regular
from data.readers.optional import needed

GZIP, BZIP2, XZ, ZSTD = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"
MAGIC = 6  # bytes
SUFFIXES = (".gz", ".bz2", ".xz", ".zst")


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The content of a file, unpacked while it is read if it is compressed.

    Raises `Unreadable` for what is no file, damaged or cut short, also while it is read.
    """
    with regular(path) as file:
        head = file.read(MAGIC) or b""
        file.seek(0)
        try:
            yield _unpacked(file, head)
        except EOFError:
            raise Unreadable(path, "is cut short: its compressed data ends early") from None
        except (zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
            raise Unreadable(path, f"its compressed data is damaged ({error})") from None
        except OSError as error:
            if error.errno is not None:  # of the disk's
                raise
            reason = str(error)  # bzip2's and zstd's
            if "runcated" in reason:
                raise Unreadable(path, "is cut short: its compressed data ends early") from None
            raise Unreadable(path, f"its compressed data is damaged ({reason})") from None


def is_compressed_name(path: Path) -> bool:
    """Whether a name ends as that of a compressed file."""
    return path.suffix in SUFFIXES


def is_compressed(head: bytes) -> bool:
    """Whether a file that begins so can be unpacked."""
    return head.startswith((GZIP, BZIP2, XZ, ZSTD))


def _unpacked(file: BinaryIO, head: bytes) -> BinaryIO:
    if head.startswith(GZIP):
        return cast(BinaryIO, gzip.GzipFile(fileobj=file, mode="rb"))
    if head.startswith(BZIP2):
        return cast(BinaryIO, bz2.BZ2File(file))
    if head.startswith(XZ):
        return cast(BinaryIO, lzma.LZMAFile(file))
    if head.startswith(ZSTD):
        arrow = needed("pyarrow")  # tells of a frame that is cut short, as `zstandard` does not
        stream = arrow.CompressedInputStream(arrow.PythonFile(file, mode="r"), "zstd")
        return cast(BinaryIO, io.BufferedReader(stream, 1 << 20))
    return file
