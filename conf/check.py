"""Refusing a bad command line before any work: every problem at once, each with a way out.

Hydra alone stops at the first problem and shows a traceback for some. Here each override is tried
on its own against the composed configuration, then each job of a (multi)run is checked as a whole.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf import schema
from conf.combinations import combination_problems
from conf.flags import flag_problems, hydra_problem
from conf.model_spec import NOT_FIELDS, nearest
from models.errors import UserError
from models.registry import model_class

CONF = Path(__file__).resolve().parent
KINDS = {
    "Integer": "expected an integer",
    "Float": "expected a number",
    "bool": "expected true or false",
}
MOST_JOBS = 1000  # of a multirun that are checked as a whole


def quoted(config_name: str, words: list[str]) -> list[str]:
    """The words with the values of verbatim keys in Hydra's quotes."""
    verbatim = {
        item.name for item in fields(schema.SCRIPTS[config_name]) if item.metadata.get("verbatim")
    }
    return [_quote(word) if word.partition("=")[0] in verbatim else word for word in words]


def _quote(word: str) -> str:
    name, _, text = word.partition("=")
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # no interpolation
    text = re.sub(r"(\\*)'", r"\1\1\\'", text)
    text = re.sub(r"(\\+)$", r"\1\1", text)
    return f"{name}='{text}'"


def problems_of(config_name: str, argv: list[str]) -> list[str]:
    """Every problem of a command line, in reading order; empty if it can run."""
    if problems := flag_problems(argv):
        return problems
    schema.register()
    words = quoted(config_name, [word for word in argv if not word.startswith("-")])
    multirun = "-m" in argv or "--multirun" in argv
    if multirun:
        words = [*_recipe_sweep(words), *words]
    overrides, problems = _parse(words, multirun)
    groups = [override for override in overrides if _is_group(override)]
    keys = [override for override in overrides if not _is_group(override)]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        choices = [_values(override) for override in groups]
        for override, values in zip(groups, choices, strict=True):
            problems += _group_problems(config_name, override, values)
        if problems:  # without its groups the rest of the line is judged on the default ones
            choices, groups = [], []
        for combination in itertools.product(*choices):
            selected = [
                f"{override.key_or_group}={value}"
                for override, value in zip(groups, combination, strict=True)
            ]
            try:
                base = compose(config_name, overrides=selected)
            except HydraException as error:
                return [*problems, str(error).splitlines()[0]]
            found = {id(override): list(_key_problems(base, override)) for override in keys}
            problems += itertools.chain.from_iterable(found.values())
            good = [override for override in keys if not found[id(override)]]
            problems += _job_problems(config_name, base, good)
    problems += _shared_name(overrides)
    return list(dict.fromkeys(problems))


def configuration_problems(config_name: str, config: DictConfig) -> list[str]:
    """Problems of one complete configuration: bounds, choices, the model, combinations."""
    try:
        return _configuration_problems(config_name, config)
    except OmegaConfBaseException as error:  # an interpolation that leads nowhere
        return [f"{error.full_key}: {str(error.msg).splitlines()[0]}"]


def _configuration_problems(config_name: str, config: DictConfig) -> list[str]:
    problems = list(_model_problems(config.model)) if "model" in config else []
    missing = sorted(OmegaConf.missing_keys(config))
    problems += [f"{name} has no value: give it on the command line" for name in missing]
    if problems:
        return problems
    typed = OmegaConf.to_object(config)
    problems = list(_bound_problems(typed))
    return problems or combination_problems(config_name, typed)


def _parse(words: list[str], multirun: bool) -> tuple[list[Override], list[str]]:
    parser = OverridesParser.create()
    overrides, problems = [], []
    for word in words:
        try:
            override = parser.parse_override(word)
        except HydraException:
            problems.append(f"{word!r} is not of the form key=value (quote special characters)")
            continue
        if override.key_or_group.split(".")[0].split("/")[0] == "hydra":
            problems += hydra_problem(word)
            continue
        if override.is_delete() or override.is_add() or override.is_force_add():
            problems.append(f"{word!r}: keys cannot be added or removed; write key=value")
        elif override.is_sweep_override() and not multirun:
            problems.append(f"{word!r} names several values: add -m to run them all")
        else:
            overrides.append(override)
    return overrides, problems


def _recipe_sweep(words: list[str]) -> list[str]:
    """What an experiment sweeps by itself (`hydra.sweeper.params`), as words of a command line.

    Keys that the line gives are the line's, as in Hydra.
    """
    given = dict(word.split("=", 1) for word in words if "=" in word)
    path = CONF / "experiment" / f"{given.get('experiment')}.yaml"
    recipe = OmegaConf.load(path) if path.is_file() else OmegaConf.create()
    params = OmegaConf.select(recipe, "hydra.sweeper.params") or {}
    return [f"{name}={values}" for name, values in params.items() if name not in given]


def _is_group(override: Override) -> bool:
    return (CONF / override.key_or_group).is_dir()


def _values(override: Override) -> list[str]:
    """What an override stands for: one value, or each value of a sweep."""
    if override.is_sweep_override():
        return [str(value) for value in override.sweep_string_iterator()]
    return [override.get_value_element_as_str()]


def _group_problems(config_name: str, override: Override, values: list[str]) -> Iterator[str]:
    group = override.key_or_group
    known = [path.stem for path in sorted((CONF / group).glob("*.yaml"))]
    text = (CONF / f"{config_name}.yaml").read_text()
    if not re.search(rf"^\s+- {group}:", text, re.MULTILINE):
        yield f"{group}= has no meaning for {config_name}.py"
        return
    for value in values:
        if value not in known and not (value == "null" and f"{group}: null" in text):
            yield f"{group}={value}: no such {group}{nearest(value, known)}"


def _shared_name(overrides: list[Override]) -> Iterator[str]:
    """Several jobs of one name would write into one folder."""
    swept = [override.key_or_group for override in overrides if override.is_sweep_override()]
    named = [o for o in overrides if o.key_or_group == "name" and not o.is_sweep_override()]
    if swept and named:
        yield (
            f"name={named[0].value()} would name every run of {', '.join(swept)}; "
            "for a folder around them use group="
        )


def _key_problems(base: DictConfig, override: Override) -> Iterator[str]:
    name = override.key_or_group
    if not _has(base, name):
        known = [*(path.name for path in CONF.iterdir() if path.is_dir()), *_names(base)]
        same_leaf = [other for other in known if other.split(".")[-1] == name.split(".")[-1]]
        hint = f"; did you mean {same_leaf[0]!r}?" if same_leaf else nearest(name, known)
        yield f"unknown key {name!r}{hint if len(hint) < 200 else ''}"
        return
    for text in _values(override):
        if problem := _try(base, name, text):
            yield problem


def _try(base: DictConfig, name: str, text: str) -> str | None:
    """Set one key on a copy of the configuration; what is wrong with the value, or None."""
    value = OverridesParser.create().parse_override(f"{name}={text}").value()
    old = OmegaConf.select(base, name)
    if isinstance(old, bool) and not isinstance(value, bool):  # OmegaConf takes 7 for true
        return f"{name}={text}: {KINDS['bool']}"
    if isinstance(value, list) and any(isinstance(one, (list, dict)) for one in value):
        return f"{name}={text}: expected a list of single values"
    if OmegaConf.is_dict(old) and not isinstance(value, dict):
        return f"{name}={text}: {name} is a group of keys, such as {name}.{next(iter(old))}"
    trial = base.copy()
    try:
        OmegaConf.update(trial, name, value, merge=True)
    except OmegaConfBaseException as error:
        kind = re.search(r"could not be converted to (\w+)|not a valid (bool)", str(error))
        expected = KINDS.get(kind[1] or kind[2]) if kind else None
        told = expected or str(error).splitlines()[0]
        shown = value if isinstance(value, str) else text
        return f"{name}={shown}: {told}{_hint(base, name)}"
    return None


def _hint(base: DictConfig, name: str) -> str:
    """What the schema says to somebody who gave a key of the first level a wrong value."""
    typed: Any = OmegaConf.get_type(base)
    known = fields(typed) if is_dataclass(typed) else ()
    hints = {one.name: one.metadata.get("hint") for one in known}
    return f"; {hints[name]}" if hints.get(name) else ""


def _job_problems(config_name: str, base: DictConfig, keys: list[Override]) -> list[str]:
    """Problems of every job that the values of the keys span."""
    names = [override.key_or_group for override in keys]
    jobs = itertools.product(*(_values(override) for override in keys))
    parser = OverridesParser.create()
    problems = []
    for values in itertools.islice(jobs, MOST_JOBS):
        config = base.copy()
        for name, text in zip(names, values, strict=True):
            value = parser.parse_override(f"{name}={text}").value()
            OmegaConf.update(config, name, value, merge=True)
        problems += configuration_problems(config_name, config)
    return problems


def _has(config: Any, name: str) -> bool:
    for part in name.split("."):
        if not OmegaConf.is_dict(config) or part not in list(config):
            return False
        config = config._get_node(part)
    return True


def _names(config: DictConfig, prefix: str = "") -> Iterator[str]:
    """Dotted names of every leaf a user may set."""
    for part in map(str, config):
        node = config._get_node(part)
        if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
            if part != "sizes":
                yield from _names(node, f"{prefix}{part}.")
        else:
            yield f"{prefix}{part}"


def _model_problems(model: DictConfig) -> Iterator[str]:
    """The model group against the config dataclass of its class."""
    try:
        config_class = model_class(model.target).Config
        expected = OmegaConf.structured(config_class)
        OmegaConf.set_readonly(expected, False)  # it is frozen; values are tried on a copy
    except UserError as error:
        yield str(error)
        return
    for name in map(str, model):
        if name in NOT_FIELDS or model[name] is None:
            continue
        if name not in {item.name for item in fields(config_class)}:
            yield f"model.{name} is not a field of {model.target}"
        elif type(model[name]) is int and model[name] < 1:
            yield f"model.{name}={model[name]}: must be at least 1"
        elif problem := _try(
            OmegaConf.create({"model": expected}), f"model.{name}", f"{model[name]}"
        ):
            yield problem


def _bound_problems(config: Any, prefix: str = "") -> Iterator[str]:
    """Values outside the choices and bounds that their fields declare."""
    for item in fields(config):
        value, name = getattr(config, item.name), f"{prefix}{item.name}"
        if is_dataclass(value):
            yield from _bound_problems(value, f"{name}.")
            continue
        choices, low, high = (item.metadata.get(bound) for bound in ("choices", "low", "high"))
        if value is None:  # where that is allowed it means "not set"
            continue
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, float) and not isfinite(one):
                yield f"{name}={one}: must be a finite number"
                continue
            if choices and one not in choices:
                yield f"{name}={one!r}: not one of its values{nearest(str(one), list(choices))}"
            if low is not None and one < low:
                yield f"{name}={one}: must be at least {low}"
            if high is not None and one > high:
                yield f"{name}={one}: must be at most {high}"
