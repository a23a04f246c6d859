"""Models of SentencePiece in the hands of transformers: the same ids, or no tokenizer at all."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import tokenizers as library
import transformers

from core.errors import UserError
from data import sentencepiece_json, tokenizers
from data.companions import hugging_face_files
from data.sentencepiece_tokenizer import SentencePieceTokenizer
from data.tokenizer_files import PIECES
from tests.data.test_sentencepiece_tokenizer import KINDS, PLAIN, TEXT, trained

MORE: dict[str, dict[str, Any]] = {
    **KINDS,
    "control": {
        "model_type": "bpe", "byte_fallback": True, **PLAIN, "control_symbols": ["<turn>"],
        "user_defined_symbols": ["<|user|>", "<|user|>>"],
    },
    "unigram bytes": {"model_type": "unigram", "byte_fallback": True, **PLAIN},
    "unigram nfkc": {"model_type": "unigram", "byte_fallback": True},
    "characters": {"model_type": "char", **PLAIN},
}  # fmt: skip
TEXTS = (
    "", " ", "  ", "The dog", " The  dog ", "a", " a", "  a  b", TEXT[:300], "\n\nfox\t",
    "naïve Ünïcode 你好 🙂", "quick dog", "ﬁne ① Å", "a\r\nb", "\x00", "e\u0301", "<0x41>", "<unk>",
    "x <|user|> y", "<|user|>>", "hello   world\n   x", "a <0x41> <unk><|user|>",
)  # fmt: skip


def in_a_folder(tokenizer: SentencePieceTokenizer, folder: Path) -> None:
    for name, content in hugging_face_files(tokenizer).items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))


@pytest.fixture(scope="module", params=MORE)
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[SentencePieceTokenizer, Any, Path]:
    """Ours, that of transformers from what is written of it, and the folder."""
    ours = SentencePieceTokenizer(trained(**MORE[request.param]))
    folder = tmp_path_factory.mktemp("model")
    in_a_folder(ours, folder)
    return ours, transformers.AutoTokenizer.from_pretrained(folder), folder


def test_ids_are_ours(both: tuple[SentencePieceTokenizer, Any, Path]) -> None:
    ours, theirs, _ = both
    draw = random.Random(7)
    drawn = [" ".join(draw.choices(TEXTS, k=3)) for _ in range(100)]
    compared = 0
    for text in (*TEXTS, *drawn):
        try:
            expected = ours.encode(text)
        except UserError:  # a character that it does not have
            continue
        compared += 1
        assert theirs.encode(text, add_special_tokens=False) == expected, text
        assert theirs.encode(text) == expected, text
        assert theirs.decode(expected) == ours.decode(expected)
    assert compared > 9


def test_special_tokens_are_whole(both: tuple[SentencePieceTokenizer, Any, Path]) -> None:
    ours, theirs, _ = both
    for name in ours.special_tokens:
        for text in (name, f"a{name}quick dog", f"{name} a {name}{name}a"):
            assert theirs.encode(text) == ours.encode_many([text], whole=True)[0], text
    assert theirs.eos_token_id == theirs.bos_token_id == ours.end_of_text


def test_the_folder_is_read_as_the_model(both: tuple[SentencePieceTokenizer, Any, Path]) -> None:
    ours, _, folder = both
    assert tokenizers.load(folder).fingerprint == ours.fingerprint
    assert (folder / PIECES).read_bytes() == ours.model


def test_what_no_definition_gives_is_no_tokenizer(tmp_path: Path) -> None:
    """transformers then says that there is none, and makes nothing of its own."""
    kinds: list[dict[str, Any]] = [
        {"model_type": "bpe", "treat_whitespace_as_suffix": True, **PLAIN},
        {"model_type": "word", "vocab_size": 12},
    ]
    for number, kind in enumerate(kinds):
        ours = SentencePieceTokenizer(trained(**kind))
        assert hugging_face_files(ours) == {PIECES: ours.model}
        folder = tmp_path / str(number)
        folder.mkdir()
        in_a_folder(ours, folder)
        with pytest.raises((OSError, ValueError)):
            transformers.AutoTokenizer.from_pretrained(folder)


def test_a_definition_with_other_ids_is_noticed() -> None:
    ours = SentencePieceTokenizer(trained(**MORE["llama"]))
    made = sentencepiece_json.definition(ours)
    assert made is not None
    content = json.loads(made)
    content["model"]["merges"][0], content["model"]["merges"][9] = (
        content["model"]["merges"][9], content["model"]["merges"][0],
    )  # fmt: skip
    other = library.Tokenizer.from_str(json.dumps(content))
    assert not sentencepiece_json._agrees(ours, other)
