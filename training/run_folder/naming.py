"""The name of a run that was given none: everything in which it differs from the defaults.

Two configurations that train or measure differently never share a name; what only says where
things go, how often they are saved or how they are shown (`PLACES`) is not part of it. Imports
nothing heavy: the jobs of a multirun are compared before any work.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from conf import schema
from conf.schema import NOT_FIELDS, TrainConf

LONGEST = 100
CORPUS = "stdlib"  # that of conf/train.yaml, where the schema has none
TOKENIZERS = ("bpe", "bytes", "chars")  # any other is the path of a file
PLACES = ("seed", "model", *schema.HOUSEKEEPING)
SHORT = {
    "data.corpus": "",
    "data.length": "l",
    "data.batch_size": "bs",
    "data.vocab_size": "v",
    "data.tokenizer": "",
    "data.packing": "",
    "data.paths": "",
    "data.mix": "mix",
    "data.parts": "parts",
    "data.order": "",
    "init_from": "from_",
    "take": "take_",
    "optim.name": "",
    "optim.schedule": "",
    "optim.decay_steps": "decay",
    "optim.lr": "lr",
    "optim.final_lr": "flr",
    "optim.warmup_steps": "wu",
    "optim.beta1": "beta1_",
    "optim.beta2": "beta2_",
    "optim.weight_decay": "wd",
    "tune.mode": "",
    "trainer.max_steps": "n",
    "trainer.devices": "dev",
    "trainer.accelerator": "",
    "trainer.strategy": "",
    "trainer.precision": "",
    "trainer.accumulate_grad_batches": "acc",
    "trainer.gradient_clip_val": "clip",
    "trainer.val_check_interval": "val_every",
    "training.bptt": "",
}
"""What stands before the value of a key; the last part of the key where it is not listed."""


def default_name(conf: TrainConf, model: str, size: str) -> str:
    """`rwkv7-5m-lr3e-3-bs8-s0`, of the model `model` at its preset `size`.

    A value that a folder name cannot hold as it is (a path, a list) is shown in part, and the name
    then ends in a digest of all that differs; so does one that would be too long, which leaves out
    whole values, or one that could be read in two ways.
    """
    differing = dict(_differing(conf))
    parts = [_word(model), _word(size)]
    whole = parts == [model, size] and not _has_unclear_fields(conf.model)
    for key, value in differing.items():
        text, exact = _text(value)
        is_file = key == "data.tokenizer" and value not in TOKENIZERS
        whole = whole and exact and not is_file
        prefix = SHORT.get(key, key.rpartition(".")[2])
        if isinstance(value, bool):
            parts.append(prefix if value else f"no_{prefix}")
        else:
            is_word = isinstance(value, str) or text[:1].isalpha()
            separator = "_" if prefix and key not in SHORT and is_word else ""
            parts.append(f"{prefix}{separator}{text}")
    seed = f"s{conf.seed}"
    name = "-".join([*parts, seed])
    if whole and len(name) <= LONGEST:
        return name
    # A key is digested under its first name: renaming it must not rename runs.
    first = {new: old for old, new in schema.RENAMED.items()}
    named = {first.get(key, key): value for key, value in differing.items()}
    if parts[:2] != [model, size]:  # of which the name has lost something
        named |= {"model": model, "size": size}
    digest = hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:10]
    room = LONGEST - len(f"-{digest}-{seed}")
    name = parts[0][:room].rstrip("-._")
    for part in parts[1:]:
        if len(name) + 1 + len(part) <= room:  # part of a value would be another value
            name += f"-{part}"
    return f"{name}-{digest}-{seed}"


def _word(text: str) -> str:
    """The name of a model or size, as far as a folder name can hold it."""
    return re.sub(r"[^A-Za-z0-9._]+", "_", text).lstrip("._") or "x"


def _has_unclear_fields(model: dict[str, Any]) -> bool:
    """Whether a model of others has a field whose part of a name could be that of another key:
    `rank1` with 2 and `rank` with 12, or `rank` and the `tune.rank` of a training."""
    if _shipped(str(model.get("name"))):
        return False
    return any(
        bool(re.search(r"^no_|\d$", name)) or name in _prefixes()
        for name in {*model} - {*NOT_FIELDS}
    )


@cache
def _prefixes() -> set[str]:
    """What stands before the values of a training's keys."""
    leaves = _leaves(TrainConf(), TrainConf())
    return {SHORT.get(key, key.rpartition(".")[2]) for key, _, _ in leaves}


def _differing(conf: TrainConf) -> Iterator[tuple[str, Any]]:
    """Dotted keys that matter and their values, where these are not the defaults."""
    usual = _shipped(str(conf.model.get("name")))
    size = str(conf.model.get("size"))
    preset = _presets(conf.model).get(size)
    if usual and preset != _presets(usual).get(size):
        yield "model.sizes", preset
    for name, value in conf.model.items():
        ours = name not in NOT_FIELDS or (name == "target" and usual)
        if ours and value != usual.get(name):
            yield f"model.{name}", value
    plain = TrainConf()
    plain.data.corpus = CORPUS
    for key, value, default in _leaves(conf, plain):
        if key == "data.task" and isinstance(value, dict):
            usual = _shipped_task(conf.data.corpus)
            for setting, each in value.items():
                if setting not in usual or each != usual[setting]:
                    yield f"{key}.{setting}", each
        elif value != default and not schema.is_in(key, PLACES):
            yield key, value


@cache
def _shipped(model: str) -> dict[str, Any]:
    """The `model` group as its file in conf/model/ has it; empty for one without a file."""
    files = {path.stem: path for path in Path(schema.__file__).parent.glob("model/*.yaml")}
    return yaml.safe_load(files[model].read_text()) if model in files else {}


@cache
def _shipped_task(corpus: str) -> dict[str, Any]:
    """The settings of a task as its file in conf/data/ has them; empty for one without a file."""
    path = Path(schema.__file__).parent / "data" / f"{corpus}.yaml"
    return yaml.safe_load(path.read_text()).get("task") or {} if path.is_file() else {}


def _presets(model: dict[str, Any]) -> dict[str, Any]:
    """Those of its sizes, by name."""
    return {str(name): preset for name, preset in model.get("sizes", {}).items()}


def _leaves(node: Any, default: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    for item in fields(node):
        key, value, usual = (
            prefix + item.name,
            getattr(node, item.name),
            getattr(default, item.name),
        )
        if is_dataclass(usual):
            yield from _leaves(value, usual, f"{key}.")
        else:
            yield key, value, usual


def _text(value: Any) -> tuple[str, bool]:
    """A value as part of a folder name, and whether nothing of it is lost."""
    if isinstance(value, bool):
        return "", True
    if isinstance(value, int):
        return str(value), True
    if isinstance(value, float):  # the shorter of `0.003` and `3e-3`, every digit kept
        decimal = Decimal(repr(value)).normalize()
        plain = format(decimal, "f")
        mantissa, _, exponent = format(decimal, "e").replace("e+", "e").partition("e")
        power = f"{mantissa}e{int(exponent)}"
        return min(plain, power, key=len), True
    if isinstance(value, str) and re.fullmatch(r"\w+|(bf)?\d+-(mixed|true)", value, re.ASCII):
        return value.replace("-", "_"), True
    first = str(value[0]) if isinstance(value, list) and value else str(value)
    stem = re.sub(r"[^A-Za-z0-9]+", "_", Path(first).stem).strip("_")
    return stem[:20] or "x", False
