"""vocab.json and merges.txt: the ids of the library's own reader, and of transformers'."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers.implementations import ByteLevelBPETokenizer

from core.errors import UserError
from data import foreign, tokenizers
from data.merges import definition
from tests.data.test_tokenizers import AWKWARD, ENGLISH

TEXTS = [ENGLISH[:300], AWKWARD, "12345 it's\n\n  e\u0301", " a"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two files of a small tokenizer whose end of a text is its entry 0."""
    path = tmp_path_factory.mktemp("pair")
    library: Any = tokenizers.train_bpe([ENGLISH, AWKWARD], 340)
    library._tokenizer.model.save(str(path))
    return path


def configured(folder: Path, target: Path, **config: Any) -> Path:
    for name in ("vocab.json", "merges.txt"):
        (target / name).write_bytes((folder / name).read_bytes())
    (target / "tokenizer_config.json").write_text(json.dumps(config))
    return target


def test_ids_are_those_of_the_library(folder: Path) -> None:
    theirs = ByteLevelBPETokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    for path in (folder, folder / "vocab.json", folder / "merges.txt"):
        ours = foreign.load(path, TEXTS)
        assert ours.encode_many(TEXTS) == [theirs.encode(text).ids for text in TEXTS]
        assert ours.end_of_text == 0
        assert [ours.decode(ids) for ids in ours.encode_many(TEXTS)] == TEXTS


@pytest.mark.parametrize("kind", ["GPT2Tokenizer", "Qwen2Tokenizer"])
def test_the_class_decides_how_words_are_separated(folder: Path, tmp_path: Path, kind: str) -> None:
    import transformers

    special = {"id": 340, "content": "<|im_end|>", "special": True}
    path = configured(
        folder, tmp_path, tokenizer_class=kind, eos_token="<|im_end|>",
        added_tokens_decoder={"340": special},
    )  # fmt: skip
    ours = foreign.load(path, TEXTS)
    theirs = getattr(transformers, kind).from_pretrained(str(path))
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode(text.replace("<|endoftext|>", "")) or (
            "<|endoftext|>" in text
        )
    assert ours.end_of_text == 340
    assert ours.special_tokens == {"<|im_end|>": 340}
    ours.save(tmp_path / "saved.json")
    saved = tokenizers.load(tmp_path / "saved.json")
    assert (saved.fingerprint, saved.end_of_text) == (ours.fingerprint, 340)
    (ids,) = ours.encode_many(["The<|im_end|>"], whole=True)
    assert ids == [*ours.encode("The"), 340]


def test_the_merges_are_missing(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_bytes((folder / "vocab.json").read_bytes())
    with pytest.raises(UserError, match=r"needs merges\.txt beside it"):
        foreign.load(tmp_path)


@pytest.mark.parametrize(
    ("vocab", "merges", "message"),
    [
        ('{"a": 0}', "", "not that of a byte-level BPE"),
        ("[]", "", "not that of a byte-level BPE"),
        (None, "#version: 0.2\na b c\n", "expected two tokens, and not 'a b c'"),
    ],
)
def test_files_that_are_none(folder: Path, vocab: str | None, merges: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        definition(vocab or (folder / "vocab.json").read_text(), merges, {})
