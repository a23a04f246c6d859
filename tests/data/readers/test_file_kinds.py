"""A file given to a reader of another kind: the message names the reader that takes it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from conf.schema import DataConf
from core.errors import UserError
from data import corpora
from data.readers import binidx, file_kinds

TEXT = "No record, and no table: a line of plain text, longer than sixty-four bytes.\n"


def a_text(folder: Path) -> Path:
    (folder / "a.txt").write_text(TEXT * 3)
    return folder / "a.txt"


def lines(folder: Path) -> Path:
    (folder / "a.jsonl").write_text((json.dumps({"text": TEXT}) + "\n") * 3)
    return folder / "a.jsonl"


def parquet(folder: Path) -> Path:
    table = pyarrow.table({"text": [TEXT, "another"]})
    pyarrow.parquet.write_table(table, folder / "a.parquet")
    return folder / "a.parquet"


def tokens(folder: Path) -> Path:
    np.arange(1, 200, dtype="<u2").tofile(folder / "a.bin")
    return folder / "a.bin"


def index(folder: Path) -> Path:
    binidx.write(folder / "b", iter([iter([np.array([1, 2, 0])])]), 256)
    return folder / "b.idx"


CASES = [
    ("text", lines, "is JSON lines and not plain text: data=jsonl reads it"),
    ("text", parquet, "a Parquet file: data=tables reads it"),
    ("text", tokens, "binary: data=tokens reads token ids"),
    ("text", index, "the index of a binidx: data=tokens reads it with its .bin"),
    ("jsonl", a_text, "not JSON"),
    ("jsonl", a_text, "the file seems to be plain text: data=text reads it"),
    ("jsonl", parquet, "is a Parquet file: data=tables reads it"),
    ("jsonl", index, "is the index of a binidx: data=tokens reads it with its .bin"),
    ("tables", a_text, "is plain text: data=text reads it"),
    ("tables", lines, "is JSON lines: data=jsonl reads it"),
    ("tables", index, "is the index of a binidx: data=tokens reads it with its .bin"),
    ("tokens", a_text, "is plain text: data=text reads it"),
    ("tokens", lines, "is JSON lines: data=jsonl reads it"),
    ("tokens", parquet, "is a Parquet file: data=tables reads it"),
    ("hub", lines, "is no folder: data=files reads files"),
]


def refusal(corpus: str, path: Path, **settings: object) -> str:
    conf = DataConf(corpus=corpus, paths=[str(path)], tokenizer="bytes", **settings)
    with pytest.raises(UserError) as caught:
        for document in corpora.documents(conf):
            list(document.parts())
    return str(caught.value)


@pytest.mark.parametrize(("corpus", "write", "message"), CASES)
def test_the_reader_that_takes_it_is_named(
    tmp_path: Path, corpus: str, write: Callable[[Path], Path], message: str
) -> None:
    path = write(tmp_path)
    found = refusal(corpus, path)
    assert message in found and str(path) in found


def test_a_file_of_another_kind_is_not_skipped_record_by_record(tmp_path: Path) -> None:
    message = refusal("jsonl", parquet(tmp_path), on_bad="skip")
    assert "is a Parquet file: data=tables reads it" in message


@pytest.mark.parametrize(
    ("corpus", "example"),
    [("text", "*.txt"), ("jsonl", "*.jsonl"), ("tables", "*.parquet"), ("tokens", "*.bin")],
)
def test_the_files_of_a_folder_are_named_as_the_reader_has_them(
    tmp_path: Path, corpus: str, example: str
) -> None:
    message = refusal(corpus, tmp_path)
    assert f"name its files, e.g. {tmp_path}/**/{example}, or let data=files" in message


@pytest.mark.parametrize(
    ("name", "head", "kind"),
    [
        ("a", TEXT.encode() * 2, "plain text: data=text reads it"),
        ("a", (TEXT + "ü").encode()[:-1] * 1, "plain text: data=text reads it"),
        ("a.csv", TEXT.encode(), "CSV"),
        ("a", b"short", ""),
        ("a", TEXT.encode() + b"\xff", ""),
        ("a", TEXT.encode("utf-16-le"), ""),
    ],
)
def test_what_a_head_of_text_is(name: str, head: bytes, kind: str) -> None:
    found = file_kinds.textual(Path(name), head)
    assert found == kind
