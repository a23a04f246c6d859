"""What a definition says of a tokenizer is what the tokenizer does."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import Tokenizer

from data import tokenizers
from data.tokenizers import LibraryTokenizer
from data.traits import loses_nothing
from tests.data.test_tokenizers import AWKWARD, ENGLISH

LOSES = "a b  c\n漢 <x>  d e\u0301 é"
Change = Callable[[dict[str, Any]], Any]


@pytest.fixture(scope="module")
def bpe() -> str:
    return tokenizers.train_bpe([ENGLISH], 280).definition


def split(behavior: str) -> dict[str, Any]:
    pattern = {"Regex": r"\s+|\S+"}
    first = {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": False}
    bytewise = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    return {"type": "Sequence", "pretokenizers": [first, bytewise | {"trim_offsets": True}]}


def added(content: str, number: int, special: bool, strip: bool = False) -> dict[str, Any]:
    token = {"id": number, "content": content, "special": special, "normalized": False}
    return token | dict.fromkeys(("lstrip", "rstrip"), strip) | {"single_word": False}


KEEPS: dict[str, Change] = {
    "as it is": lambda d: None,
    "two separators": lambda d: d.update(pre_tokenizer=split("Isolated")),
    "whole words first": lambda d: d["model"].update(ignore_merges=True),
    "another special token": lambda d: d["added_tokens"].append(added("<x>", 280, True)),
}
MAY_LOSE: dict[str, Change] = {
    "composed": lambda d: d.update(normalizer={"type": "NFC"}),
    "parts left out": lambda d: d.update(pre_tokenizer=split("Removed")),
    "a byte is missing": lambda d: d["model"]["vocab"].pop("#"),
    "a space before": lambda d: d["pre_tokenizer"].update(add_prefix_space=True),
    "no separator": lambda d: d.update(pre_tokenizer=None),
    "no decoder": lambda d: d.update(decoder=None),
    "swallows spaces": lambda d: d["added_tokens"].append(added("<x>", 280, False, strip=True)),
    "a name for two": lambda d: d["added_tokens"].append(added("<x>", 70, True)),
    "ends of words": lambda d: d["model"].update(end_of_word_suffix="x"),
}


@pytest.mark.parametrize("change", KEEPS.values(), ids=KEEPS)
def test_what_loses_nothing_gives_any_text_back(bpe: str, change: Change) -> None:
    definition = json.loads(bpe)
    change(definition)
    assert loses_nothing(definition)
    library = LibraryTokenizer(Tokenizer.from_str(json.dumps(definition)))
    for text in (ENGLISH, AWKWARD, LOSES, "".join(map(chr, range(0x300)))):
        assert library.decode(library.encode_many([text])[0]) == text


@pytest.mark.parametrize("change", MAY_LOSE.values(), ids=MAY_LOSE)
def test_what_may_lose_is_looked_at(bpe: str, change: Change) -> None:
    definition = json.loads(bpe)
    change(definition)
    assert not loses_nothing(definition)


def test_a_character_or_byte_each() -> None:
    assert loses_nothing(json.loads(tokenizers.byte_tokenizer().definition))
    assert not loses_nothing(json.loads(tokenizers.char_tokenizer("abc").definition))
