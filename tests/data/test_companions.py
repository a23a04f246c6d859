"""Tokenizers in the files of others: the same ids, and a token that ends a text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from core.errors import UserError
from data import tokenizers
from data.companions import LONGEST, greedy, hugging_face_files
from data.rwkv_world_tokenizer import WorldTokenizer
from data.text import END_OF_TEXT, TextTokenizer

BYTES = [bytes([byte]) for byte in range(256)]
WORLD = WorldTokenizer(
    [*BYTES, b"ab", b"abcd", b"bc", b" a", b"\n\n", b"(a", b"a]", b"]-^", "é".encode(),
     "日本".encode(), "日".encode()[:2], b"\xff\xfe\xfd", b"&&", b"\\"*2, b"~~", b"[["]
)  # fmt: skip
TEXT = "abcabcd bc a\n\n\n(a]-^ é日本日語 && \\\\\\ ~~~ [[[a] \x00 tail"


def in_a_folder(tokenizer: TextTokenizer, folder: Path) -> Any:
    for name, text in hugging_face_files(tokenizer).items():
        (folder / name).write_text(text, encoding="utf-8")
    return transformers.AutoTokenizer.from_pretrained(folder)


def test_rwkv_worlds_greedy_match_is_a_tokenizer_of_the_library(tmp_path: Path) -> None:
    theirs = in_a_folder(WORLD, tmp_path)
    assert theirs.encode(TEXT, add_special_tokens=False) == WORLD.encode(TEXT)
    assert max(WORLD.encode(TEXT)) > 256, "none of the longer tokens"
    assert theirs.decode(WORLD.encode(TEXT)) == TEXT
    assert theirs.eos_token_id == 0 and theirs.encode(END_OF_TEXT)[-1] == 0
    again = tokenizers.load(tmp_path / "rwkv_vocab_v20230424.txt")
    assert again.fingerprint == WORLD.fingerprint


@pytest.mark.parametrize("kind", ["bpe", "bytes"])
def test_tokenizers_of_the_library_say_what_ends_a_text(tmp_path: Path, kind: str) -> None:
    ours = tokenizers.byte_tokenizer()
    if kind == "bpe":
        ours = tokenizers.train_bpe([TEXT * 9], 300)
    theirs = in_a_folder(ours, tmp_path)
    assert theirs.encode(TEXT, add_special_tokens=False) == ours.encode(TEXT)
    assert theirs.eos_token == END_OF_TEXT and theirs.eos_token_id == ours.end_of_text
    assert tokenizers.load(tmp_path / "tokenizer.json").fingerprint == ours.fingerprint


def test_characters_have_nothing_that_ends_a_text(tmp_path: Path) -> None:
    theirs = in_a_folder(tokenizers.char_tokenizer(TEXT), tmp_path)
    assert theirs.eos_token is None and theirs.decode(theirs.encode(TEXT)) == TEXT
    assert "eos_token" not in json.loads((tmp_path / "tokenizer_config.json").read_text())


def test_a_token_too_long_is_named() -> None:
    with pytest.raises(UserError, match="a token of 201 bytes"):
        greedy([*BYTES, b"a" * (LONGEST + 1)])
    assert greedy([*BYTES, b"a" * LONGEST]).encode("a" * (LONGEST + 3)).ids == [257, 98, 98, 98]
