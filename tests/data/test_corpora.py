"""Corpora: chosen by name."""

from __future__ import annotations

import pytest

from conf.schema import DataConf
from core.errors import UserError
from data import corpora
from data.documents import Document


def test_unknown_corpus_names_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"'novel'.*stdlib, text"):
        corpora.load(DataConf(corpus="novel"))


def test_a_row_adds_a_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    poems = [Document.of("1", b"roses are red"), Document.of("2", b"violets are blue")]
    monkeypatch.setitem(corpora.CORPORA, "poems", lambda conf: poems)
    assert corpora.load(DataConf(corpus="poems")).side("train").documents == 1
