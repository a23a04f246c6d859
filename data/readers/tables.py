"""Tables of Parquet and Arrow (files, streams and Feather): a record for each row.

A table is read in batches of rows, of columns that are needed, so it may be larger than the memory.
Those of Parquet are made here; those of Arrow are as they were written, and a large file is mapped.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from conf.schema import DataConf
from core.parsing import Unreadable, regular
from data.readers import file_kinds
from data.readers.optional import needed
from data.readers.records import RecordFiles
from data.readers.shapes import Record

PARQUET, ARROW, STREAM = b"PAR1", b"ARROW1", b"\xff\xff\xff\xff"
"""How files of each kind begin."""
BATCH = 16 << 20
"""Bytes of text that the rows of a batch have, about."""
MOST_ROWS = 4096
MAPPED = 256 << 20
"""Bytes of a file of Arrow's from which on it is mapped and not read: a batch may be all of it."""
_STREAM_END = b"\0\0\0\0"


def tables(conf: DataConf) -> RecordFiles:
    """The documents in the files that `data.paths` names."""
    return RecordFiles(conf, records)


def records(path: Path, conf: DataConf, fields: Sequence[str] | None = None) -> Iterator[Record]:
    """Every row of a table, with those of `fields` that it has; all without `fields`.

    Raises `Unreadable` for what is no table, damaged or cut short.
    """
    del conf
    arrow = needed("pyarrow")
    with regular(path) as file:
        row, size = 0, os.fstat(file.fileno()).st_size
        try:
            batches = _batches(path, file, fields)
            while True:
                _check_size(path, file, size, row + 1)
                if (batch := next(batches, None)) is None:
                    break
                columns = {name: batch.column(name) for name in batch.schema.names}
                for number in range(batch.num_rows):
                    row += 1
                    _check_size(path, file, size, row)
                    value = {name: column[number].as_py() for name, column in columns.items()}
                    yield Record(f"{path}: row {row}", value)
        except (arrow.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            if isinstance(error, MemoryError):
                raise Unreadable(
                    path,
                    f"what follows row {row} needs more memory at once than there is ({reason}): "
                    "write it again with fewer rows in each row group, page or batch",
                ) from None
            raise Unreadable(path, f"damaged, or cut short, after row {row} ({reason})") from None


def _check_size(path: Path, file: BinaryIO, size: int, row: int) -> None:
    """Call it before each touch of what may be mapped: one past the file's end ends all."""
    if os.fstat(file.fileno()).st_size < size:
        raise Unreadable(
            path,
            f"was cut short while row {row} was read: run the same command again once nothing "
            "writes there any more",
        )


def _batches(path: Path, file: BinaryIO, fields: Sequence[str] | None) -> Iterator[Any]:
    """The rows in batches, with the columns that are wanted and there, or all if none is."""
    head = file.read(8) or b""
    file.seek(0)
    if head.startswith(PARQUET):
        yield from _parquet(file, fields)
    elif head.startswith((ARROW, STREAM)):
        yield from _arrow(path, file, fields, head)
    else:
        head = file.read(file_kinds.HEAD) or b""
        other = file_kinds.marked(head) or file_kinds.textual(path, head)
        raise Unreadable(path, f"is {other or 'neither a Parquet file nor one of Arrow'}")


def _parquet(file: BinaryIO, fields: Sequence[str] | None) -> Iterator[Any]:
    parquet = needed("pyarrow.parquet")
    table = parquet.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)
    groups = [table.metadata.row_group(i) for i in range(table.num_row_groups)]
    rows = max(1, sum(group.num_rows for group in groups))
    size = max(1, sum(group.total_byte_size for group in groups) // rows)
    count = min(MOST_ROWS, max(1, BATCH // size))
    columns = _wanted(table.schema_arrow.names, fields)
    yield from table.iter_batches(count, columns=columns, use_threads=False)


def _arrow(path: Path, file: BinaryIO, fields: Sequence[str] | None, head: bytes) -> Iterator[Any]:
    arrow = needed("pyarrow")
    ipc = arrow.ipc
    size = os.fstat(file.fileno()).st_size
    source: Any = file
    if size >= MAPPED:  # its pages are the kernel's to take back; one cut meanwhile ends all
        source = arrow.BufferReader(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    if head.startswith(ARROW):
        table = ipc.open_file(source)
        batches = (table.get_batch(i) for i in range(table.num_record_batches))
    else:
        file.seek(size - len(_STREAM_END))
        if file.read() != _STREAM_END:
            raise Unreadable(path, "is cut short: a stream of Arrow's has an end, and this none")
        file.seek(0)
        table = batches = ipc.open_stream(source)
    columns = _wanted(table.schema.names, fields)
    for batch in batches:
        yield batch.select(columns)


def _wanted(there: Sequence[str], fields: Sequence[str] | None) -> list[str]:
    """The columns to read. All, if one is missing: the message names them."""
    if fields is None:
        return list(there)
    # Of `a.b` the column is a, if there is none of that name.
    columns = [name if name in there else name.partition(".")[0] for name in fields]
    return list(dict.fromkeys(columns)) if {*columns} <= {*there} else list(there)
