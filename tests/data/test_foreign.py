"""Tokenizers of others: equal ids from the other process, and an end to whatever has none."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from conf.schema import DataConf
from core.errors import UserError
from data import foreign, recipes, tokenizer_files, tokenizers
from data.documents import Document
from data.encoding import Encoded, Encoder, Encodes
from data.foreign import Foreign
from data.splitting import split
from data.text import TextTokenizer
from tests.data.test_tokenizers import AWKWARD, ENGLISH, sentencepiece
from tests.faults.tokenizers import definition, split_at

LITTLE = split([Document.of("a", b"ab" * 50), Document.of("c", b"c")], 0.1)


@pytest.fixture(scope="module")
def spiece(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Foreign, bool]]:
    """One that does not separate words as GPT-2 does, tried already."""
    path = tmp_path_factory.mktemp("spiece") / "tokenizer.json"
    sentencepiece("first").save(path)
    with Foreign(path) as file:
        yield file, file.try_on([ENGLISH, AWKWARD])


def encode(encoder: Encodes, texts: list[str]) -> Iterator[Encoded]:
    for text in texts:
        yield from encoder.push(text, True, True)
    yield from encoder.flush()


def all_ids(parts: Any) -> list[int]:
    return [*chain.from_iterable(ids for ids, _ in parts)]


def test_the_other_process_gives_the_ids_of_this_one(spiece: tuple[Foreign, bool]) -> None:
    file, _ = spiece
    texts = [ENGLISH * 30, "漢字 é " * 99, "", " a", ENGLISH[:70]]
    parts = list(encode(file.encoder(), texts))
    assert all_ids(parts) == all_ids(encode(Encoder(file.tokenizer()), texts))
    assert sum(size for _, size in parts) == sum(len(text.encode()) for text in texts)


def test_a_text_without_tokens_is_refused_and_the_next_is_not(
    spiece: tuple[Foreign, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, _ = spiece
    with pytest.raises(UserError, match="not valid Unicode"):
        list(encode(file.encoder(), ["\udcff"]))
    expected = all_ids(encode(Encoder(file.tokenizer()), ["The dog"]))
    assert all_ids(encode(file.encoder(), ["The dog"])) == expected


def conf(tokenizer: str, **settings: int) -> DataConf:
    return DataConf(corpus="text", tokenizer=tokenizer, **settings)


def test_recipe_and_build_follow_the_configuration() -> None:
    confs = [conf("bpe"), conf("bpe", vocab_size=512), conf("bytes"), conf("chars")]
    assert len({recipes.chosen(c, recipes.foreign(c), LITTLE) for c in confs}) == len(confs)
    built: list[TextTokenizer] = [recipes.build(c, None, LITTLE) for c in confs]
    assert built[3].encode("abc") == [0, 1, 2]
    assert built[2].fingerprint == tokenizers.byte_tokenizer().fingerprint
    with pytest.raises(UserError, match="'bpee': neither bpe, bytes, chars nor a file"):
        recipes.foreign(conf("bpee"))
    with pytest.raises(UserError, match=r"data\.tokenizer='/': a folder without a tokenizer"):
        recipes.foreign(conf("/"))


def test_a_file_is_known_by_its_content_and_by_how_it_must_be_cut(
    tmp_path: Path, spiece: tuple[Foreign, bool]
) -> None:
    file, apart = spiece
    path = tmp_path / "bytes.json"
    tokenizers.byte_tokenizer().save(path)
    for tokenizer_path, ends in ((file.path, apart), (path, False)):
        digest = hashlib.sha256(tokenizer_path.read_bytes()).hexdigest()
        possible = recipes.possible(conf(str(tokenizer_path)), Foreign(tokenizer_path))
        assert possible == [f"file {digest}", f"file {digest} apart"]
        assert ends == (tokenizer_path is file.path)
    recipe = recipes.foreign(conf(str(path)))
    assert recipe is not None
    with recipe:
        known = recipes.possible(conf(""), recipe)[0]
        assert recipes.chosen(conf(str(path)), recipe, LITTLE) == known
        built = recipes.build(conf(str(path)), recipe, LITTLE)
        assert built.fingerprint == tokenizers.byte_tokenizer().fingerprint


def refusal(tmp_path: Path, content: dict[str, Any]) -> str:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError) as caught:
        foreign.load(path, ["The dog"])
    return str(caught.value)


def test_a_pattern_that_does_not_end_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = refusal(tmp_path, definition(pre_tokenizer=split_at(r"(a|aa)+b")))
    assert "fails for 2,000 bytes of text such as 'aaaa" in message
    monkeypatch.setattr(foreign, "SECONDS", 0.4)
    monkeypatch.setattr(foreign, "SLOWER", 0)
    slow = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 3000}
    content = definition(normalizer={"type": "Sequence", "normalizers": [slow, slow]})
    assert "takes more than 0 seconds for 2,000 bytes of text such as" in refusal(tmp_path, content)


def test_a_rule_that_multiplies_text_runs_out_of_memory_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreign, "MEMORY", 64 << 20)
    monkeypatch.setattr(foreign, "PER_BYTE_OF_TEXT", 0)
    monkeypatch.setattr(foreign, "PROBES", ["a" * 2000])
    many = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1_000_000}
    message = refusal(tmp_path, definition(normalizer=many))
    assert "GiB of memory for 2,000 bytes of text such as 'aaaa" in message


def vocabulary(vocab: dict[str, Any], merges: Any = ()) -> dict[str, Any]:
    return definition(model={"type": "BPE", "vocab": vocab, "merges": [*merges]})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (vocabulary({"a": 0, "b": -1}), "the id -1 of 'b' is not from 0"),
        (vocabulary({"a": 0, "b": 1 << 31}), "the id 2147483648 of 'b' is not from 0"),
        (vocabulary({"a": 0, "b": 0.5}), r"the id 0\.5 of 'b' is not from 0"),
        (vocabulary({"a": 3, "b": 3}), "'a' and 'b' both have the id 3"),
        (vocabulary({}), "not a valid"),
        (vocabulary({"a": 0}, ["a b c"]), "not a valid"),
        (vocabulary({"a": 0}, [["a"]]), "not a valid"),
        (vocabulary({"a": 0, "b": 1}, [["a", "b"]]), "not a valid"),  # a panic of Rust's
        (vocabulary({str(i): 0 for i in range(1001)}), "1,001 entries, and 1,000 is the most"),
        ({"model": 1}, "not a valid"),
        ({}, "not a valid"),
    ],
)
def test_vocabularies_that_are_none(
    monkeypatch: pytest.MonkeyPatch, content: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(tokenizers, "MOST_IDS", 1000)
    with pytest.raises(UserError, match=message):
        tokenizers.parse(json.dumps(content), Path("tokenizer.json"))


def test_a_file_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with path.open("wb") as file:
        file.truncate(tokenizer_files.LARGEST + 1)
    with pytest.raises(UserError, match="larger than"):
        Foreign(path)


def test_no_other_process_can_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tokenizer.json"
    sentencepiece("first").save(path)
    monkeypatch.setattr(foreign.sys, "executable", str(tmp_path / "no python"))
    with Foreign(path) as file, pytest.raises(UserError, match="none can be started here: "):
        file.try_on([ENGLISH])
