"""tiktoken's files: the ids that tiktoken itself gives."""

from __future__ import annotations

import base64
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiktoken
import transformers
from tiktoken_ext import openai_public

from core.errors import UserError
from data import foreign, tiktoken_ranks, tokenizers
from data.companions import hugging_face_files
from data.encoding import encoded, plain
from data.traits import byte_symbols
from tests.data.test_tokenizers import AWKWARD, ENGLISH

NAMES = ("r50k_base", "p50k_base", "cl100k_base", "o200k_base")
CODE = "def f(x):\n    return x + 12345\n\n\n        y = 'it''s'  \n  "
LETTERS = "'sStTlLrReEvVdDmM\u017f\u2019\n\r\t \u00a0\u0085\u200912\u00b2a漢ǅʰ\u0301/!"


@pytest.fixture(scope="module")
def ranks() -> dict[bytes, int]:
    """Of a small BPE: every byte, then its merges."""
    library = tokenizers.train_bpe([ENGLISH, CODE * 20, "aab b aaab" * 99, AWKWARD * 9], 700)
    symbols = {symbol: byte for byte, symbol in enumerate(byte_symbols())}
    vocab = sorted((number, name) for name, number in library._tokenizer.get_vocab().items())
    names = [name for _, name in vocab if name != "<|endoftext|>"]
    return {bytes(symbols[char] for char in name): i for i, name in enumerate(names)}


@pytest.fixture
def theirs(ranks: dict[bytes, int], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """tiktoken's encoding of a name, with these ranks."""
    monkeypatch.setattr(openai_public, "load_tiktoken_bpe", lambda *_, **__: ranks)

    def encoding(name: str) -> Any:
        words: dict[str, Any] = getattr(openai_public, name)()
        words.pop("explicit_n_vocab", None)
        return tiktoken.Encoding(**words)

    return encoding


def written(folder: Path, name: str, ranks: dict[bytes, int]) -> Path:
    path = folder / f"{name}.tiktoken"
    path.write_bytes(b"".join(b"%b %d\n" % (base64.b64encode(t), i) for t, i in ranks.items()))
    return path


def samples() -> list[str]:
    draw = random.Random(0)
    pools = ["aab b'", LETTERS, "".join(map(chr, [*range(32, 127), *range(0xA0, 0x2FF)]))]
    drawn = ["".join(draw.choices(pool, k=draw.randrange(40))) for pool in pools * 50]
    return ["", CODE, AWKWARD, ENGLISH[:300], *drawn]


@pytest.mark.parametrize("name", NAMES)
def test_ids_and_special_tokens_are_those_of_tiktoken(
    name: str, ranks: dict[bytes, int], theirs: Callable[[str], Any], tmp_path: Path
) -> None:
    ours, other = tokenizers.load(written(tmp_path, name, ranks)), theirs(name)
    texts = samples()
    assert ours.encode_many(texts) == [other.encode(text, disallowed_special=()) for text in texts]
    assert ours.special_tokens == other._special_tokens
    assert ours.end_of_text == other.eot_token
    conversation = "a<|endoftext|>b <|endofprompt|>"
    assert ours.encode_many([conversation], whole=True) == [
        other.encode(conversation, allowed_special="all")
    ]
    assert ours.encode(conversation) == other.encode(conversation, disallowed_special=())


@pytest.mark.parametrize("name", NAMES)
def test_transformers_reads_what_is_written_for_it(
    name: str, ranks: dict[bytes, int], tmp_path: Path
) -> None:
    ours = tokenizers.load(written(tmp_path, name, ranks))
    for file, content in hugging_face_files(ours).items():
        (tmp_path / file).write_text(str(content), encoding="utf-8")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in samples():
        assert [theirs.encode(text)] == ours.encode_many([text], whole=True), text
        assert theirs.decode(ours.encode(text)) == text
    conversation = "a<|endoftext|>b <|endofprompt|>"
    assert [theirs.encode(conversation)] == ours.encode_many([conversation], whole=True)
    assert theirs.eos_token_id == ours.end_of_text


@pytest.mark.parametrize("name", ["cl100k_base", "r50k_base"])
def test_a_saved_one_is_a_tokenizer_json(
    name: str, ranks: dict[bytes, int], tmp_path: Path
) -> None:
    path = written(tmp_path, name, ranks)
    ours = foreign.load(path, [CODE])
    ours.save(tmp_path / "tokenizer.json")
    saved = tokenizers.load(tmp_path / "tokenizer.json")
    assert saved.fingerprint == ours.fingerprint
    assert saved.encode(CODE) == ours.encode(CODE)
    long = (CODE + ENGLISH) * 40
    assert [i for ids, _ in encoded(plain(long), ours) for i in ids][1:] == ours.encode(long)


def test_a_name_says_how_words_are_separated(ranks: dict[bytes, int], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="need a name that says how words are separated: gpt2,"):
        tokenizers.load(written(tmp_path, "mine", ranks))


@pytest.mark.parametrize("line", ["!!! 5", "YQ== x", "YQ==", ""])
def test_a_line_that_is_none_is_named(line: str) -> None:
    with pytest.raises(ValueError, match="line 2: expected a token in base64"):
        tiktoken_ranks.vocabulary(f"YQ== 0\n{line}\nYg== 1\n")


def test_a_token_with_two_ranks_is_named() -> None:
    with pytest.raises(ValueError, match="line 3: the token of rank 0 once more"):
        tiktoken_ranks.vocabulary("YQ== 0\nYg== 1\nYQ== 2\n")
