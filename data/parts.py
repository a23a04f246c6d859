"""The named corpora of a configuration: the parts of a mixture, and further validation texts.

`data.parts` and `data.validation` hold words of the `data` group for each name. What they do not
say is that of `data` itself; what all corpora of a training share is said there alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields, replace
from difflib import get_close_matches
from typing import Any, get_args, get_origin, get_type_hints

from conf.schema import DataConf
from core.errors import UserError
from data.mixed_order import quotas

SHARED = (
    "tokenizer", "vocab_size", "length", "batch_size", "packing", "batch_warmup", "length_warmup",
    "order", "magic_prime", "workers", "cache_dir", "verify", "mix", "parts", "validation",
)  # fmt: skip
"""Keys of `data` that belong to the training, not to one of its corpora."""
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")
WHOLE = 1.0
"""The `val_fraction` of a corpus that only validates."""
_TAKEN = ("loss", "ema_loss", "bits_per_byte")  # names of curves already: val/loss


def part_confs(conf: DataConf) -> dict[str, DataConf]:
    """The configuration of each part of the mixture, by name. Raises `UserError`."""
    _check(conf)
    return {name: _one(conf, conf.parts[name]) for name in conf.mix or {}}


def validation_confs(conf: DataConf) -> dict[str, DataConf]:
    """The configuration of each further validation text, by name. Raises `UserError`."""
    _check(conf)
    return {
        name: replace(_one(conf, words), val_fraction=WHOLE)
        for name, words in (conf.validation or {}).items()
    }


def part_problems(conf: DataConf) -> Iterator[str]:
    """Everything that is wrong with `data.mix`, `data.parts` and `data.validation`."""
    maps = {"mix": conf.mix, "parts": conf.parts, "validation": conf.validation}
    examples = {**dict.fromkeys(maps, "{NAME: {WORD: VALUE}, ...}"), "mix": "{NAME: SHARE, ...}"}
    for key, value in maps.items():
        if value is not None and not (isinstance(value, dict) and value):
            yield f"data.{key}={value!r:.80}: write data.{key}={examples[key]}"
            return
    mix, parts, validation = (value or {} for value in maps.values())
    if parts and not mix:
        yield "data.parts says nothing of their shares: give data.mix={NAME: SHARE, ...} too"
        return
    for key, names in (("data.mix", mix), ("data.validation", validation)):
        for name in map(str, names):
            if not NAME.fullmatch(name) or name in _TAKEN:
                yield f"{key}.{name}: a name is a letter, then letters, digits, - or _"
    for name in mix:
        if name not in parts:
            known = f" (it has {', '.join(map(str, parts))})" if parts else ""
            yield f"data.mix has a share of {name}, and data.parts has no such part{known}"
    for name in parts:
        if name not in mix:
            yield f"data.parts.{name} has no share: give data.mix.{name} too, or leave it out"
    for name in validation:
        if name in mix:
            yield f"data.validation.{name}: the held-out text of the part {name} has that name"
    for name, share in mix.items():
        if not _fits(share, float):
            yield f"data.mix.{name}={share!r:.80}: expected a number"
            return
    if mix:
        try:
            quotas(mix)
        except UserError as error:
            yield str(error)
    if len(mix) > 1 and conf.magic_prime:
        yield f"data.magic_prime={conf.magic_prime} is for one corpus: each part finds its own"
    for key, own in (("data.parts", parts), ("data.validation", validation)):
        for name, words in own.items():
            yield from _word_problems(f"{key}.{name}", words, key == "data.validation")


def _check(conf: DataConf) -> None:
    if problems := list(part_problems(conf)):
        raise UserError("; ".join(problems))


def _one(conf: DataConf, words: dict[str, Any]) -> DataConf:
    if isinstance(words.get("paths"), str):
        words = {**words, "paths": [words["paths"]]}
    return replace(conf, mix=None, parts=None, validation=None, **words)


def _word_problems(place: str, words: Any, only_validates: bool) -> Iterator[str]:
    if not isinstance(words, dict):
        yield f"{place}={words!r:.80}: give its words, as in {{corpus: text, paths: [a.txt]}}"
        return
    own = [item for item in fields(DataConf) if item.name not in SHARED]
    types = get_type_hints(DataConf)
    known = {item.name: item for item in own}
    for word, value in words.items():
        if word in SHARED:
            yield f"{place}.{word}: all parts share it; give data.{word}"
        elif word == "val_fraction" and only_validates:
            yield f"{place}.{word}: all of its text validates; leave it out"
        elif word not in known:
            near = get_close_matches(str(word), known, 1)
            meant = f"; did you mean {near[0]}?" if near else f"; it takes {', '.join(known)}"
            yield f"{place}.{word}: no key of a corpus{meant}"
        elif not _fits(value, types[word]) and not (word == "paths" and isinstance(value, str)):
            yield f"{place}.{word}={value!r:.80}: not a value of data.{word}"
        else:
            yield from _bounds(f"{place}.{word}", value, known[word].metadata)


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is one of the type of a key."""
    if kind is Any:
        return True
    inner = get_args(kind)
    if get_origin(kind) is list:
        return isinstance(value, list) and all(_fits(each, inner[0]) for each in value)
    if get_origin(kind) is dict:
        return isinstance(value, dict) and all(_fits(each, inner[1]) for each in value.values())
    if inner:  # a union
        return any(_fits(value, each) for each in inner)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def _bounds(place: str, value: Any, metadata: Any) -> Iterator[str]:
    for each in value if isinstance(value, list) else [value]:
        if (choices := metadata.get("choices")) and each not in choices:
            yield f"{place}={each!r}: choose one of {', '.join(choices)}"
        if isinstance(each, int | float) and not isinstance(each, bool):
            low, high = metadata.get("low"), metadata.get("high")
            if not (low is None or low <= each) or not (high is None or each <= high):
                yield f"{place}={each}: must lie between {low} and {high}"
