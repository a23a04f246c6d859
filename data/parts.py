"""The named corpora of a configuration: the parts of a mixture, and further validation texts.

`data.parts` and `data.validation` hold words of the `data` group for each name. What they do not
say is that of `data` itself; what all corpora of a training share is said there alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any, get_type_hints

from conf.schema import DataConf
from core.bounds import nearest, type_problem, value_problems
from core.errors import UserError
from data.mixed_order import quotas
from data.tasks.task_data import TASKS, task_validation, task_validation_problems

SHARED = (
    "tokenizer", "end_of_text", "vocab_size", "length", "batch_size", "packing", "batch_warmup",
    "length_warmup", "order", "magic_prime", "workers", "cache_dir", "verify", "mix", "parts",
    "validation",
)  # fmt: skip
"""Keys of `data` that belong to the training, not to one of its corpora."""
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")
WHOLE = 1.0
"""The `val_fraction` of a corpus that only validates."""
NO_LOSS = "data.val_fraction=0 holds nothing out and data.validation names no text"
"""Why a training has no validation loss."""
_TAKEN = (
    "loss",
    "ema_loss",
    "bits_per_byte",
    "accuracy",
    "exact_match",
    "bits_per_sequence",
    "formed",
)  # names of curves already: val/loss


def part_confs(conf: DataConf) -> dict[str, DataConf]:
    """The configuration of each part of the mixture, by name. Raises `UserError`."""
    _check(conf)
    return {name: _one(conf, conf.parts[name]) for name in conf.mix or {}}


def validation_confs(conf: DataConf) -> dict[str, DataConf]:
    """The configuration of each further validation text, by name. Raises `UserError`.

    Of a task, those of its further sequences.
    """
    _check(conf)
    if is_task(conf):
        return task_validation(conf)
    return {
        name: replace(_one(conf, words), val_fraction=WHOLE)
        for name, words in (conf.validation or {}).items()
    }


def validates(conf: DataConf) -> bool:
    """Whether a training on it has a validation loss. Raises `UserError`."""
    if is_task(conf) or conf.validation:
        return True
    return any(one.val_fraction for one in part_confs(conf).values() or [conf])


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
            if name in _TAKEN:
                yield f"{key}.{name}: val/{name} is a curve already; choose another name"
            elif not NAME.fullmatch(name):
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
        if problem := type_problem(share, float):
            yield f"data.mix.{name}={share!r:.80}: {problem}"
            return
    if mix:
        try:
            quotas(mix)
        except UserError as error:
            yield str(error)
    if conf.magic_prime and conf.order != "magic_prime":
        yield f"data.magic_prime={conf.magic_prime} is that of data.order=magic_prime: give both"
    elif len(mix) > 1 and conf.magic_prime:
        yield f"data.magic_prime={conf.magic_prime} is for one corpus: each part finds its own"
    if is_task(conf):
        yield from task_validation_problems(conf)
        return
    for key, own in (("data.parts", parts), ("data.validation", validation)):
        for name, words in own.items():
            yield from _word_problems(f"{key}.{name}", words, key == "data.validation")


def is_task(conf: DataConf) -> bool:
    """Whether a synthetic task, alone, is trained on."""
    return conf.corpus in TASKS and not conf.mix


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
            yield f"{place}.{word}: no key of a corpus{nearest(str(word), [*known])}"
        elif (problem := type_problem(value, types[word])) and not (
            word == "paths" and isinstance(value, str)
        ):
            yield f"{place}.{word}={value!r:.80}: {problem}"
        else:
            yield from value_problems(f"{place}.{word}", value, known[word].metadata)
