"""Parquet and Arrow: rows become documents, and what is cut short is told."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.feather
import pyarrow.parquet
import pytest

from conf.schema import DataConf
from core.errors import UserError
from data.readers.tables import records, tables

TEXTS = [f"text {i} ü\n" * (i % 5) for i in range(300)]
TABLE = pyarrow.table({"id": range(300), "text": TEXTS, "list": [[1]] * 300})


def arrow_file(table: pyarrow.Table, path: Path) -> None:
    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_file(sink, table.schema) as file:
        file.write_table(table, max_chunksize=100)


def arrow_stream(table: pyarrow.Table, path: Path) -> None:
    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as out:
        out.write_table(table, max_chunksize=100)


def parquet(table: pyarrow.Table, path: Path) -> None:
    pyarrow.parquet.write_table(table, path, row_group_size=70)


def feather(table: pyarrow.Table, path: Path) -> None:
    pyarrow.feather.write_feather(table, path, compression="zstd", chunksize=50)


WRITERS: list[Callable[[pyarrow.Table, Path], None]] = [parquet, arrow_file, arrow_stream, feather]


def read(path: Path, **settings: object) -> list[str]:
    conf = DataConf(corpus="tables", paths=[str(path)], **settings)
    return [b"".join(document.parts()).decode() for document in tables(conf)]


@pytest.mark.parametrize("write", WRITERS)
def test_every_row_is_a_document(
    tmp_path: Path, write: Callable[[pyarrow.Table, Path], None]
) -> None:
    path = tmp_path / "table"
    write(TABLE, path)
    assert read(path) == TEXTS
    assert read(path, template="{id}: {text}")[7] == f"7: {TEXTS[7]}"
    with pytest.raises(UserError, match=r"row 1: has no field 'body'; those it has: id, text, lis"):
        read(path, field="body")
    (first, *_) = records(path, DataConf(corpus="tables"))
    assert first.value == {"id": 0, "text": "", "list": [1]}


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("part", [0.05, 0.5, 0.98])
def test_a_table_cut_short_is_told(
    tmp_path: Path, write: Callable[[pyarrow.Table, Path], None], part: float
) -> None:
    path = tmp_path / "table"
    write(TABLE, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(UserError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ") and "cut short" in str(caught.value)


def test_rows_without_text_are_named_or_counted(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    parquet(pyarrow.table({"text": ["a", None, "b"]}), tmp_path / "a")
    with pytest.raises(UserError, match=r"a: row 2: the field 'text' is no text \(null\)"):
        read(tmp_path / "a")
    assert read(tmp_path / "a", on_bad="skip") == ["a", "b"]
    assert "left out 1 of 3 records" in capfd.readouterr().err


def test_what_is_no_table_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("text")
    with pytest.raises(UserError, match="is neither a Parquet file nor one of Arrow"):
        read(tmp_path / "a")


def test_a_missing_package_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_text("text")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"needs the package pyarrow: pip install -e '\.\[data\]'"):
        read(tmp_path / "a")


@pytest.mark.parametrize("write", [arrow_file, arrow_stream])
def test_a_large_file_of_arrow_is_mapped_and_takes_no_memory(
    tmp_path: Path, write: Callable[[pyarrow.Table, Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "table"
    write(TABLE, path)
    monkeypatch.setattr("data.readers.tables.MAPPED", 0)
    before = pyarrow.total_allocated_bytes()
    rows = records(path, DataConf(corpus="tables"), ["text"])
    texts = [str(next(rows).value["text"])]
    assert pyarrow.total_allocated_bytes() - before < 100  # a batch would take kilobytes
    assert texts + [str(row.value["text"]) for row in rows] == TEXTS


@pytest.mark.parametrize("mapped", [True, False])
def test_a_file_cut_short_while_it_is_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mapped: bool
) -> None:
    monkeypatch.setattr("data.readers.tables.MAPPED", 0 if mapped else 1 << 40)
    arrow_file(pyarrow.table({"text": ["x" * 5000] * 300}), tmp_path / "a")
    reading = records(tmp_path / "a", DataConf())
    for _ in range(10):
        next(reading)
    os.truncate(tmp_path / "a", 20_000)
    with pytest.raises(UserError, match="was cut short while row 11 was read: run the same comma"):
        next(reading)


@pytest.mark.parametrize("open_writer", [pyarrow.ipc.new_file, pyarrow.ipc.new_stream])
@pytest.mark.parametrize("size", [0, 20_000])
def test_a_mapped_file_cut_short_between_two_batches_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_writer: Callable[..., Any], size: int
) -> None:
    monkeypatch.setattr("data.readers.tables.MAPPED", 0)
    table = pyarrow.table({"text": ["x" * 50_000] * 30})
    with open_writer(tmp_path / "a", table.schema) as writer:
        writer.write_table(table, max_chunksize=5)
    reading = records(tmp_path / "a", DataConf())
    for _ in range(10):
        next(reading)
    os.truncate(tmp_path / "a", size)
    with pytest.raises(UserError, match="was cut short while row 11 was read: run the same comma"):
        next(reading)


def test_a_page_larger_than_the_memory_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet(TABLE, tmp_path / "a")

    def none_left(*_: object) -> None:
        raise pyarrow.ArrowMemoryError("malloc of size 1018272000 failed")

    monkeypatch.setattr("data.readers.tables._batches", none_left)
    with pytest.raises(UserError, match="a: what follows row 0 needs more memory at once than"):
        read(tmp_path / "a")


@pytest.mark.parametrize("write", WRITERS)
def test_a_dot_leads_into_a_struct(
    tmp_path: Path, write: Callable[[pyarrow.Table, Path], None]
) -> None:
    meta = [{"lang": "en", "id": i} for i in range(300)]
    write(TABLE.append_column("meta", pyarrow.array(meta)), tmp_path / "t")
    assert read(tmp_path / "t", template="{meta.lang} {id}")[:2] == ["en 0", "en 1"]
    (first, *_) = records(tmp_path / "t", DataConf(), ["meta.lang", "id"])
    assert first.value.keys() == {"meta", "id"}
