"""Megatron's indexed data set, which RWKV's trainers call binidx: two files, read and written.

    X.bin   token ids, one sequence after the other
    X.idx   little endian: MMIDIDX, two zero bytes, version 1 (u64), a code of the ids' type (u8),
            numbers of sequences and of documents + 1 (u64 each), tokens of each sequence (i32),
            where it begins in X.bin, in bytes (i64), and the first sequence of each document (i64),
            the last of which is the number of sequences

RWKV's own files have one sequence in each document, of uint16, and token 0 at its end.
"""

from __future__ import annotations

import os
import struct
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from core.files import filling
from core.parsing import Unreadable, regular
from data.readers.token_files import Run

MAGIC = b"MMIDIDX\0\0"
_HEADER = struct.Struct("<9sQBQQ")
_TYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}
_AT_ONCE = 1 << 16  # sequences


def documents(index: Path) -> Iterator[Run]:
    """The tokens of each document, in order, of the `.bin` beside an index.

    Raises `Unreadable` for files that are damaged, cut short, or do not belong together.
    """
    path = index.with_suffix(".bin")
    with regular(index) as file, regular(path) as tokens:
        size, there = (os.fstat(each.fileno()).st_size for each in (file, tokens))
        header = file.read(_HEADER.size)
        if len(header) < _HEADER.size or not header.startswith(MAGIC):
            raise Unreadable(index, "is no index of a binidx")
        _, version, code, sequences, firsts = _HEADER.unpack(header)
        if version != 1 or code not in _TYPES:
            raise Unreadable(index, f"of version {version} and type {code}, which is not read")
        needed = _HEADER.size + 12 * sequences + 8 * firsts
        if size != needed:
            cut = "cut short: " if size < needed else ""
            raise Unreadable(index, f"{cut}has {size:,} bytes, and {needed:,} belong to it")
        dtype = np.dtype(_TYPES[code])
        yield from _documents(index, path, there, dtype, sequences, firsts)


def whole(index: Path) -> Run:
    """All tokens of the `.bin` beside an index, as they lie there. Raises as `documents`."""
    path = index.with_suffix(".bin")
    found = deque(documents(index), maxlen=1)  # all are looked at, which proves the files whole
    if not found:
        raise Unreadable(path, "has no tokens")
    last = found[0]
    count = last.begin // last.dtype.itemsize + last.count
    return Run(path, last.dtype, 0, count, str(path))


def _documents(
    index: Path, path: Path, there: int, dtype: np.dtype, sequences: int, firsts: int
) -> Iterator[Run]:
    sizes = _column(index, "<i4", _HEADER.size, sequences)
    pointers = _column(index, "<i8", _HEADER.size + 4 * sequences, sequences)
    bounds = _column(index, "<i8", _HEADER.size + 12 * sequences, firsts)
    done = next(bounds, 0)
    if done != 0:
        raise Unreadable(index, "damaged: its first document does not begin at sequence 0")
    place = 0
    for number, end in enumerate(bounds, start=1):
        if not done <= end <= sequences:
            raise Unreadable(index, f"damaged: document {number} ends at sequence {end}")
        begin = place
        for _ in range(end - done):
            size, pointer = next(sizes), next(pointers)
            if size < 0 or pointer != place:
                raise Unreadable(index, f"damaged: document {number} begins at byte {pointer}")
            place += size * dtype.itemsize
        done = end
        if place > there:
            raise Unreadable(
                path, f"cut short: document {number} ends at byte {place:,} of {there:,}"
            )
        count = (place - begin) // dtype.itemsize
        yield Run(path, dtype, begin, count, f"{path}: document {number}")
    if done != sequences or place != there:
        raise Unreadable(
            index, f"damaged, or of other tokens: it knows {place:,} bytes of {there:,}"
        )


def _column(path: Path, dtype: str, place: int, count: int) -> Iterator[int]:
    """The numbers of an array in a file."""
    with regular(path) as file:
        file.seek(place)
        while count > 0:
            wanted = min(_AT_ONCE, count)
            yield from np.frombuffer(file.read(wanted * np.dtype(dtype).itemsize), dtype).tolist()
            count -= wanted


def write(prefix: Path, documents: Iterable[Iterable[np.ndarray]], vocab_size: int) -> int:
    """Write PREFIX.bin and PREFIX.idx, both or none of them; the number of tokens.

    Each document comes in parts, arrays `[T]` of ids, whose last id should end a text. Ids are
    written as uint16, or as int32 for more than 65,536 entries.
    """
    code = 8 if vocab_size <= 1 << 16 else 4
    dtype = np.dtype(_TYPES[code])
    names = [f"{prefix.name}.bin", f"{prefix.name}.idx"]
    with filling(prefix.parent, last=names[1]) as folder:
        sizes: list[int] = []
        with (folder / names[0]).open("wb") as file:
            for parts in documents:
                sizes.append(0)
                for part in parts:
                    file.write(part.astype(dtype).tobytes())
                    sizes[-1] += len(part)
        counts = np.array(sizes, dtype="<i8")
        with (folder / names[1]).open("wb") as file:
            file.write(_HEADER.pack(MAGIC, 1, code, len(sizes), len(sizes) + 1))
            file.write(counts.astype("<i4").tobytes())
            file.write(((np.cumsum(counts) - counts) * dtype.itemsize).astype("<i8").tobytes())
            file.write(np.arange(len(sizes) + 1, dtype="<i8").tobytes())
    return int(counts.sum())
