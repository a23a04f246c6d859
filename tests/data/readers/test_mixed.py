"""Any mix of files: each read as what it holds, and the same documents are the same tokens."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from conf.schema import DataConf
from core.errors import UserError
from data import known_files
from data.readers import binidx
from data.readers.mixed import MixedFiles
from data.store import Corpus, prepare
from data.tokenizers import byte_tokenizer

TEXTS = [f"text number {i} ü 漢\n" * (1 + i % 7) for i in range(40)]
TOKENIZER = byte_tokenizer()
TABLE = pyarrow.table({"text": TEXTS})


def text_files(folder: Path) -> None:
    for i, text in enumerate(TEXTS):
        (folder / f"{i:02}.txt").write_text(text)


def json_lines(folder: Path) -> None:
    lines = [json.dumps({"text": text}) + "\n" for text in TEXTS]
    (folder / "a.jsonl").write_text("".join(lines[:15]))
    (folder / "b").write_bytes(gzip.compress("".join(lines[15:]).encode()))


def arrow(folder: Path) -> None:
    with pyarrow.ipc.new_file(str(folder / "a"), TABLE.schema) as file:
        file.write_table(TABLE)


def saved(folder: Path) -> None:
    datasets.disable_progress_bars()
    parts = datasets.DatasetDict(train=datasets.Dataset(TABLE))
    parts.save_to_disk(folder)


def ids(folder: Path) -> None:
    documents = ([np.array([*TOKENIZER.encode(text), TOKENIZER.end_of_text])] for text in TEXTS)
    binidx.write(folder / "a", documents, TOKENIZER.vocab_size)


def array(folder: Path) -> None:
    flat = [id_ for text in TEXTS for id_ in (*TOKENIZER.encode(text), TOKENIZER.end_of_text)]
    np.save(folder / "a", np.array(flat))


WRITERS: dict[str, Callable[[Path], object]] = {
    "text": text_files,
    "jsonl": json_lines,
    "array": lambda folder: (folder / "a").write_text(json.dumps([{"text": t} for t in TEXTS] * 2)),
    "parquet": lambda folder: pyarrow.parquet.write_table(TABLE, folder / "a"),
    "arrow": arrow,
    "hub": saved,
    "binidx": ids,
    "npy": array,
}


def conf(*paths: Path, **settings: object) -> DataConf:
    cache = str(paths[0].parent / "cache")
    common = {"corpus": "files", "tokenizer": "bytes", "length": 8, "val_fraction": 0.2}
    return DataConf(**{"paths": [*map(str, paths)], "cache_dir": cache, **common, **settings})


def contents(corpus: Corpus) -> tuple[bytes, bytes]:
    return corpus.train[:].tobytes(), corpus.val[:].tobytes()


@pytest.fixture
def texts(tmp_path: Path) -> Corpus:
    (tmp_path / "text").mkdir()
    text_files(tmp_path / "text")
    return prepare(conf(tmp_path / "text"))


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "text"])
def test_the_same_documents_are_the_same_tokens(tmp_path: Path, texts: Corpus, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    WRITERS[name](folder)
    found = prepare(conf(folder))
    assert contents(found) == contents(texts)
    if name not in ("binidx", "npy"):  # which are other ids, should the tokenizer change
        assert found.folder == texts.folder


def test_text_and_files_have_the_same_tokens_of_each_document(
    tmp_path: Path, texts: Corpus
) -> None:
    named = prepare(conf(tmp_path / "text" / "*.txt", corpus="text"))

    def documents(corpus: Corpus) -> list[list[int]]:
        flat = np.concatenate([corpus.train[:], corpus.val[:]])
        ends = np.flatnonzero(flat == TOKENIZER.end_of_text)
        return sorted(part.tolist() for part in np.split(flat, ends))

    assert documents(named) == documents(texts)


@pytest.mark.parametrize("name", WRITERS)
def test_a_second_start_reads_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(known_files, "SETTLED", -(10**12))
    (tmp_path / name).mkdir()
    WRITERS[name](tmp_path / name)
    first = prepare(conf(tmp_path / name))
    with monkeypatch.context() as patch:
        patch.setattr(known_files, "split_in_two", None)
        assert prepare(conf(tmp_path / name)).folder == first.folder
    (tmp_path / name / "more.txt").write_text("another text")
    assert prepare(conf(tmp_path / name)).folder != first.folder


def test_a_mix_is_read_in_the_order_of_its_paths(tmp_path: Path) -> None:
    for i, name in enumerate(("parquet", "jsonl", "binidx")):
        (tmp_path / "mix" / f"{i}").mkdir(parents=True)
        WRITERS[name](tmp_path / "mix" / f"{i}")
    (tmp_path / "mix" / "z.txt").write_text("the last")
    (tmp_path / "mix" / ".hidden").write_bytes(b"\0")
    found = [b"".join(doc.parts()).decode() for doc in MixedFiles(conf(tmp_path / "mix"))]
    assert found == [*TEXTS, *TEXTS, *TEXTS, "the last"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"\0\1", "a.txt is not UTF-8 text (binary"),
        ("a.bin", b"\1\0\2\0", "a.bin is not UTF-8 text (binary"),
        ("a.html", b"<html>", "a.html is HTML and not plain text"),
        ("a.gz", gzip.compress(b"text", mtime=0), "compressed with gzip: unpack it"),
        ("a.jsonl", b"{}\n{}\n", "a.jsonl:1: has no field 'text'"),
        ("a.idx", binidx.MAGIC, "a.bin"),
    ],
)
def test_what_no_reader_takes_is_told(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        prepare(conf(tmp_path / "folder"))
    assert message in str(caught.value)


def test_pipes_devices_and_empty_folders_are_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as caught:
        prepare(conf(tmp_path / "pipe", Path("/dev/zero"), tmp_path / "empty"))
    for part in ("is a pipe", "is a device", "is a folder without files"):
        assert part in str(caught.value)
