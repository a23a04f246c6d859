"""Tokenizers and vocabularies that are hostile or none."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conf.schema import DataConf
from data import foreign
from data.store import prepare
from tests.faults.hostile import HOSTILE, NO_FILES, replaced, tell
from tests.faults.trial import Trial


def tokenizer(place: Path, draw: random.Random) -> Trial:
    """Give a hostile file as a tokenizer: to one who continues a prompt, or prepares a corpus."""
    name, make = draw.choice([*TOKENIZERS.items()])
    path = place / "tokenizer.json"
    content = make(draw)
    if callable(content):
        content(path)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(json.dumps(content))
    text = "The quick brown fox, 3 times.\n"
    if draw.random() < 0.7:
        told = tell(lambda: foreign.load(path, [text]))
        given = told.value
        if given is not None and told.problem is None:
            told = tell(lambda: _round_trip(given, text))
    else:
        (place / "a.txt").write_text(text * 300)
        conf = DataConf(corpus="text", paths=[str(place / "a.txt")], tokenizer=str(path), length=8)
        conf.cache_dir = str(place / "cache")
        told = tell(lambda: prepare(conf).val[:].tobytes())
    return f"tokenizer: {name}", told.problem


def _round_trip(given: Any, text: str) -> None:
    """What a tokenizer that was taken gives back is the text."""
    back = given.decode(given.encode(text))
    if back != text and not getattr(given, "_promised", lambda *_: False)(text, back):
        raise ValueError(f"taken, and gives back {back[:40]!r}")


Definition = Callable[[random.Random], Any]
TOKENIZERS: dict[str, Definition] = {}


def tokenizer_kind(name: str) -> Callable[[Definition], Definition]:
    def add(function: Definition) -> Definition:
        TOKENIZERS[name] = function
        return function

    return add


def definition(**parts: Any) -> dict[str, Any]:
    """A sound `tokenizer.json` of printable characters, but for `parts`."""
    characters = [chr(i) for i in range(32, 127)] + ["\n"]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Fuse"},
        "model": {"type": "BPE", "vocab": {c: i for i, c in enumerate(characters)}, "merges": []},
        **parts,
    }


def split_at(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


CATASTROPHES = (
    r"(a|aa)+b", r"(a+)+$", r"^(([a-z])+.)+[A-Z]([a-z])+$", r"(.*)*x(.*)*y", r"(?:\w+\s?)+:",
    r"((a{1,100}){1,100}){1,100}b", r"(\s|\n|\s\s)+\Z", r"(?=(.+)+;)", r"(.+)\1\1\1$",
    r"(?<=a|ab)c", "(" * 300 + ")" * 300, "[", "(?P<x>", r"\p{Nonsense}", "a{99999999}", "",
)  # fmt: skip


@tokenizer_kind("a catastrophic pattern")
def _(draw: random.Random) -> Any:
    pattern = draw.choice(CATASTROPHES)
    if draw.random() < 0.5:
        return definition(pre_tokenizer=split_at(pattern))
    replace = {"type": "Replace", "pattern": {"Regex": pattern}, "content": draw.choice("ab ")}
    return definition(normalizer=replace)


@tokenizer_kind("a rule that multiplies text")
def _(draw: random.Random) -> Any:
    size = draw.choice((10, 1000, 100_000, 1_000_000))
    many = {"type": "Replace", "pattern": {"String": draw.choice("ae ")}, "content": "a" * size}
    return definition(
        normalizer={"type": "Sequence", "normalizers": [many] * draw.choice((1, 2, 3))}
    )


@tokenizer_kind("a decoder that multiplies text")
def _(draw: random.Random) -> Any:
    many = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * draw.choice((9, 10**6))}
    return definition(decoder={"type": "Sequence", "decoders": [many] * draw.choice((1, 2))})


@tokenizer_kind("ids that no vocabulary has")
def _(draw: random.Random) -> Any:
    content = definition()
    vocab = content["model"]["vocab"]
    numbers = (-1, 0, 1 << 20, (1 << 31) - 1, 1 << 31, 1 << 32, 1 << 64, 1.5, "0", None, True)
    vocab[draw.choice([*vocab])] = draw.choice(numbers)
    return content


@tokenizer_kind("merges that are none")
def _(draw: random.Random) -> Any:
    merges: tuple[Any, ...] = (
        ["a b c"],
        [["a"]],
        [["a", "b", "c"]],
        [["a", "b"]],
        ["a"],
        [[]],
        [None],
        {},
        "a b",
        [3],
    )
    content = definition()
    chosen: Any = draw.choice(merges)
    content["model"]["merges"] = chosen * draw.choice((1, 1000)) if chosen else chosen
    return content


@tokenizer_kind("added tokens that are none")
def _(draw: random.Random) -> Any:
    one = {"id": 0, "content": "a", "single_word": False, "lstrip": False, "rstrip": False}
    one |= {"normalized": draw.random() < 0.5, "special": draw.random() < 0.5}
    one[draw.choice([*one])] = draw.choice(HOSTILE)
    return definition(added_tokens=[one] * draw.choice((1, 2, 1000)))


@tokenizer_kind("a vocabulary that is huge")
def _(draw: random.Random) -> Any:
    count = draw.choice((50_000, 1_100_000))
    vocab = {f"{i:x}": i for i in range(count)}
    return definition(
        model={"type": draw.choice(("BPE", "WordLevel")), "vocab": vocab, "merges": []}
    )


@tokenizer_kind("one value replaced")
def _(draw: random.Random) -> Any:
    return replaced(definition(pre_tokenizer=split_at(r"\s+")), draw)


@tokenizer_kind("a file cut off")
def _(draw: random.Random) -> Any:
    content = json.dumps(definition()).encode()
    return content[: draw.randrange(len(content))]


@tokenizer_kind("nested 100,000 deep")
def _(draw: random.Random) -> Any:
    return draw.choice((b"[", b'{"model":', b'{"a":[')) * 100_000


@tokenizer_kind("no file")
def _(draw: random.Random) -> Any:
    return draw.choice([*NO_FILES.values()])


@tokenizer_kind("a sparse file")
def _(draw: random.Random) -> Any:
    size = draw.choice((1 << 24, 1 << 41))
    return lambda path: path.open("wb").truncate(size)


@tokenizer_kind("a World vocabulary with one line replaced")
def _(draw: random.Random) -> Any:
    lines = [f"{i + 1} {bytes([i])!r} 1" for i in range(256)] + ["257 'The' 3", "258 'quick' 5"]
    literals = (
        "'" + "a" * 10_000_000 + "' 10000000", "'a' 1", "b'' 0", "None 1", "9**9**9 1", "(" * 5000,
        "'\\ud800' 3", "'é' 1", "[" * 100_000 + " 1", "f'{1}' 1", "'a'*10**10 1", "{} 2", "",
    )  # fmt: skip
    number = draw.randrange(len(lines))
    own = draw.choice((number + 1, 0, -1, 10**30, "x"))
    lines[number] = f"{own} {draw.choice(literals)}"
    return "\n".join(lines).encode()


@tokenizer_kind("a World vocabulary of ours with other tokens")
def _(draw: random.Random) -> Any:
    tokens: Any = [chr(i) for i in range(256)]
    tokens = draw.choice(
        (tokens[:-1], tokens * 2, [*tokens, "漢"], [*tokens, ""], [*tokens, 3], None)
    )
    return {"type": "RWKV World", "tokens": tokens}
