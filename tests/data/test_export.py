"""Prepared corpora written for other tools."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from conf.schema import DataConf
from data import export
from data.export import documents, write_binidx
from data.readers.binidx import documents as read
from data.store import Corpus, prepare


@pytest.fixture
def conf(tmp_path: Path) -> DataConf:
    for i in range(20):
        (tmp_path / f"{i}.txt").write_text(f"text {i}\n" * (i + 1))
    return DataConf(
        corpus="text", paths=[str(tmp_path / "*.txt")], tokenizer="bytes", length=8,
        val_fraction=0.3, cache_dir=str(tmp_path / "cache"),
    )  # fmt: skip


def flat(corpus: Corpus, side: str) -> list[list[int]]:
    return [[i for part in document for i in part.tolist()] for document in documents(corpus, side)]


@pytest.mark.parametrize("block", [1 << 20, 5])
def test_documents_end_where_the_next_begins(
    conf: DataConf, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(export, "BLOCK", block)
    corpus = prepare(conf)
    found = flat(corpus, "train")
    assert len(found) == corpus.meta.train_documents
    rotated = [i for ids in found for i in ids]
    assert [rotated[-1], *rotated[:-1]] == corpus.train[:].tolist()


def test_what_is_written_is_read_back_as_the_same_tokens(conf: DataConf, tmp_path: Path) -> None:
    corpus = prepare(conf)
    count = write_binidx(corpus, "all", tmp_path / "out" / "a")
    assert count == corpus.meta.train_tokens + corpus.meta.val_tokens
    again = DataConf(**{**vars(conf), "corpus": "tokens", "paths": [str(tmp_path / "out/a.bin")]})
    both = [prepare(each) for each in (again, conf)]
    flats = [sorted(flat(each, "train") + flat(each, "val")) for each in both]
    assert flats[0] == flats[1]


def test_a_tokenizer_without_an_end_makes_one_document(conf: DataConf, tmp_path: Path) -> None:
    corpus = prepare(DataConf(**{**vars(conf), "tokenizer": "chars"}))
    write_binidx(corpus, "val", tmp_path / "a")
    (run,) = read(tmp_path / "a.idx")
    assert np.concatenate([*run.blocks()]).tolist() == corpus.val[:].tolist()
