"""What a path is taken for, and what a folder's configuration adds to it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.errors import UserError
from core.parsing import Missing
from data import foreign, tokenizer_files, tokenizers
from tests.data.test_tokenizers import ENGLISH


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tokenizer with two special tokens, of which the usual one ends a text."""
    library = tokenizers.train_bpe([ENGLISH], 280)
    library._tokenizer.add_special_tokens(["<|im_end|>"])
    library.save(tmp_path / "tokenizer.json")
    return tmp_path


def test_a_single_file_is_what_it_is(folder: Path) -> None:
    path = folder / "tokenizer.json"
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|im_end|>"}')
    assert tokenizer_files.content(path) == path.read_bytes()
    assert foreign.load(path).end_of_text == 0


def test_a_folder_says_what_ends_a_text(folder: Path) -> None:
    plain = foreign.load(folder)
    assert plain.fingerprint == tokenizers.load(folder / "tokenizer.json").fingerprint
    config = folder / "tokenizer_config.json"
    for eos, end in (("<|im_end|>", 280), ("<|endoftext|>", 0), ("<none>", 0)):
        config.write_text(json.dumps({"eos_token": {"content": eos}}))
        loaded = foreign.load(folder)
        assert loaded.end_of_text == end
        assert (loaded.fingerprint == plain.fingerprint) == (end == 0)


def test_a_folder_without_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a folder without a tokenizer"):
        tokenizer_files.content(tmp_path)
    with pytest.raises(Missing):
        tokenizer_files.content(tmp_path / "none.tiktoken")


def test_the_file_that_says_most_comes_first(folder: Path) -> None:
    order = [
        tokenizer_files.VOCABULARY, tokenizer_files.PIECES, "tokenizer.json", "tokenizer.model",
        "vocab.json",
    ]  # fmt: skip
    for name in [*order, "x.tiktoken"]:
        (folder / name).touch()
    for name in [*order, "x.tiktoken"]:
        assert tokenizer_files.find(folder) == folder / name
        (folder / name).unlink()
    assert tokenizer_files.find(folder) is None


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.model", b"", "it is empty"),
        ("a.txt", b" \n", "it is empty"),
        ("a.model", b"hello world", "does not begin as a model of SentencePiece"),
        ("a.model", b"\xff\xfe\0", "does not begin as a model of SentencePiece"),
        ("gpt2.tiktoken", b"not base64!! 5\n", "does not begin as ranks of tiktoken"),
    ],
)
def test_a_file_that_is_not_what_its_name_says(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        tokenizer_files.content(tmp_path / name)


@pytest.mark.parametrize("suffix", [".model", ".tiktoken"])
def test_a_file_of_any_name_where_it_is_the_only_one(tmp_path: Path, suffix: str) -> None:
    content = b"\n\x0a\n\x03<s>\x15\0\0\0\0" if suffix == ".model" else b"IQ== 0\n"
    for name in ("b", "a"):
        (tmp_path / f"{name}{suffix}").write_bytes(content)
    (tmp_path / "weights.model").write_bytes(b"no tokenizer")
    message = rf"a folder with 2 tokenizers \(a{suffix}, b{suffix}\): name one"
    with pytest.raises(UserError, match=message):
        tokenizer_files.content(tmp_path)
    (tmp_path / f"a{suffix}").unlink()
    assert tokenizer_files.find(tmp_path) == tmp_path / f"b{suffix}"
    (tmp_path / "tokenizer.json").write_text("{}")
    assert tokenizer_files.find(tmp_path) == tmp_path / "tokenizer.json"
