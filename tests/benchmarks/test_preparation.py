"""Texts of which no two are alike, and what preparing them takes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks import preparation
from conf.schema import DataConf
from data import tokenizers


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    random.seed(0)
    lines = [f"line number {i} of a source" for i in range(100)]
    monkeypatch.setattr(preparation, "sources", lambda: [lines, lines[50:]])
    size = preparation.write_texts(tmp_path / "texts", 120_000)
    assert 120_000 <= size < 140_000
    return tmp_path / "texts"


def test_no_two_texts_are_alike(texts: Path) -> None:
    contents = [path.read_text() for path in texts.iterdir()]
    assert len({*contents}) == len(contents) > 1


def test_a_fresh_process_prepares_within_a_limit(texts: Path, tmp_path: Path) -> None:
    conf = preparation.settings(texts, "bytes", tmp_path / "cache")
    conf |= {"length": 16, "val_fraction": 0.3}
    seconds, peak, processor = preparation.prepared(conf, 1 << 31)
    assert seconds > 0 and peak > 10 << 20 and processor >= 0


@pytest.mark.slow
def test_several_processes_share_all_texts_and_encode_them(texts: Path, tmp_path: Path) -> None:
    tokenizers.byte_tokenizer().save(tmp_path / "bytes.json")
    conf = preparation.settings(texts, "bytes", tmp_path / "cache")
    shares = preparation.shares(DataConf(**conf), 2)
    assert sorted(shares[0] + shares[1]) == sorted(texts.iterdir())
    sizes = [sum(file.stat().st_size for file in share) for share in shares]
    assert min(sizes) > 40_000
    (some,) = preparation.shares(DataConf(**conf), 1, 20_000)
    assert 20_000 <= sum(file.stat().st_size for file in some) < 40_000
    seconds, processor = preparation.alone(tmp_path / "bytes.json", conf, 2)
    assert seconds > 0 and processor >= 0
