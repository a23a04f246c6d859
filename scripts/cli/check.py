"""Refusing a bad command line before any work: every problem at once, each with a way out.

Hydra alone stops at the first problem and shows a traceback for some. Here each override is tried
on its own against the composed configuration, then each job of a (multi)run is checked as a whole.
"""

from __future__ import annotations

import functools
import itertools
import re
import typing
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from math import isfinite
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf import schema
from conf.schema import FOLDER
from core.bounds import value_problems
from core.errors import UserError
from models.registry import model_class
from scripts.cli import study
from scripts.cli.arguments import expanded, quoted
from scripts.cli.collisions import collision_problems
from scripts.cli.config_folder import composing_problem, folder_problems, search_words
from scripts.cli.cross_checks import (
    combination_problems,
    deep_combination_problems,
    memory_problems,
)
from scripts.cli.hydra_flags import Line, parse
from scripts.cli.hydra_keys import unmade
from scripts.cli.limits import excess
from scripts.cli.model_spec import form_problems, model_spec
from scripts.cli.overrides import (
    MOST_OF_BAD,
    group_problems,
    is_group,
    is_of_schema,
    jobs_of,
    key_problems,
    overrides_of,
    recipe_sweep,
    values_of,
)
from scripts.cli.probed_models import word_problems
from scripts.cli.search import read_other_search, sweeper_of
from scripts.cli.shared_checks import count_problem
from scripts.cli.source_model import with_source_model
from scripts.cli.values import misfit

NO_VALUE = "{} has no value: give it on the command line"
MOST_JOBS = 200  # of a multirun that are checked as a whole before any starts


@dataclass
class Examined:
    """What the words of a command line decide, before any model or PyTorch is imported."""

    line_problems: list[str]
    """Problems of its words: keys, values, groups. Without one, every job has a configuration."""
    problems: list[str]
    """All: those of the jobs' configurations, too."""
    configs: list[DictConfig]
    """Those of the first `MOST_JOBS` jobs; each of the others is checked when it starts."""
    words: list[str]
    """What makes a job differ from the others, beside each configuration."""


def problems_of(config_name: str, argv: list[str]) -> list[str]:
    """Every problem of a command line, in reading order; empty if it can run.

    What only the models decide is checked for a line that is fine otherwise.
    """
    schema.register(config_name)
    line = read(config_name, argv)
    if line.problems:
        return line.problems
    if (sweeper := sweeper_of(line)) and config_name == "train":
        try:
            is_study = sweeper == study.NAME
            line = study.begin(line)[2][0] if is_study else read_other_search(line).lines()[0]
        except UserError as error:
            return [str(error)]
    examined = examine(config_name, line)
    return examined.problems or deep_problems(config_name, examined.configs, line)


def read(config_name: str, argv: list[str]) -> Line:
    """The line, sorted, with what is wrong before anything of it is understood."""
    line = parse(argv)
    verbs = schema.VERBS.get(config_name, {})
    for word in line.words:
        if "=" not in word and verbs and word not in verbs:
            said = " or ".join(f"`{verb}`" for verb in verbs)
            line.problems.append(f"{word!r}: the word is {said}; others are of the form key=value")
    split = (verbs.get(word, word).partition("=") for word in line.words)
    present = schema.RENAMED | schema.SPELLED
    line.words = [present.get(key, key) + equals + value for key, equals, value in split]
    # The words but for `GROUP=null` where that is the default, which Hydra takes from no line.
    nulls = re.findall(
        r"^\s+- (\w+): null", (FOLDER / f"{config_name}.yaml").read_text(), re.MULTILINE
    )
    # `+GROUP=NAME`, as Hydra's users write where a group has no default.
    added = {f"+{group}" for group in nulls}
    line.words = [word[1:] if word.partition("=")[0] in added else word for word in line.words]
    given = [word.partition("=")[0] for word in line.words]
    idle = {f"{group}=null" for group in nulls if given.count(group) == 1}
    line.words = [word for word in line.words if word not in idle]
    if config_name == "train" and any(word.startswith("init_from=") for word in line.words):
        line.words, problems = with_source_model(line.words)
        line.problems = line.problems or problems
    if issubclass(schema.SCRIPTS[config_name], schema.ProbeConf):
        line.problems = line.problems or word_problems(line.words)
    line.problems = line.problems or excess(config_name, line.words)
    if line.config_dir is not None:
        line.problems = line.problems or folder_problems(line.config_dir)
    return line


def examine(config_name: str, line: Line) -> Examined:
    """Check everything about a line that takes less than a second."""
    words = quoted(config_name, line.words, line.multirun)
    examined = Examined([], [], [], [])
    with initialize_config_dir(str(FOLDER), version_base="1.3"):
        if line.multirun:
            words = [*recipe_sweep(config_name, words, line.config_dir), *words]
        overrides, problems = overrides_of(config_name, words, line.multirun)
        groups = [override for override in overrides if is_group(override)]
        keys = [override for override in overrides if not is_group(override)]
        choices = [values_of(override) for override in groups]
        before = len(problems)
        for override, values in zip(groups, choices, strict=True):
            problems += group_problems(config_name, override, values, line.config_dir)
        unknown = len(problems) > before
        partial = bool(problems)  # what the other words amount to is not known then
        if unknown:  # without its groups the rest of the line is judged on the default ones
            choices, groups = [], []
        bases: dict[tuple[str, ...], tuple[DictConfig, list[Override]]] = {}
        for combination in itertools.product(*choices):
            selected = [
                f"{override.key_or_group}={value}"
                for override, value in zip(groups, combination, strict=True)
            ]
            if combination not in bases:
                try:
                    search = search_words(line.config_dir)
                    base = compose(config_name, overrides=[*search, *selected])
                except Exception as error:
                    of_file = composing_problem(str(error), line.config_dir)
                    problems.append(of_file or unmade(error))
                    break
                if unknown:  # which would have decided what other keys there are
                    keys = [each for each in keys if is_of_schema(base, each)]
                wrong = {id(override): list(key_problems(base, override)) for override in keys}
                problems += itertools.chain.from_iterable(wrong.values())
                good = [override for override in keys if not wrong[id(override)]]
                bases[combination] = base, good
            most = MOST_OF_BAD if problems else MOST_JOBS
            for job_words, config in itertools.islice(jobs_of(*bases[combination]), most):
                examined.configs.append(config)
                examined.words.append(" ".join([*selected, *job_words]))
            if len(examined.configs) >= most:
                break
    del examined.configs[MOST_JOBS:]
    examined.line_problems = list(dict.fromkeys(problems))
    valueless = {NO_VALUE.format(override.key_or_group) for override in overrides}
    for config in examined.configs:
        if len(problems) >= MOST_OF_BAD:  # nobody reads on
            break
        found = bound_problems(config) if partial else light_problems(config_name, config)
        # A key whose only value is refused has been given one.
        problems += [each for each in found if each not in valueless]
    if not problems:
        problems += collision_problems(config_name, overrides, examined.configs)
    examined.problems = list(dict.fromkeys(problems))
    return examined


def configuration_problems(config_name: str, config: DictConfig) -> list[str]:
    """Problems of one complete configuration: bounds, choices, the model, combinations."""
    return light_problems(config_name, config) or deep_problems(config_name, [config])


def light_problems(config_name: str, config: DictConfig) -> list[str]:
    """Problems that its words alone decide."""
    try:
        missing = sorted(OmegaConf.missing_keys(config))
        if missing:
            return [NO_VALUE.format(name) for name in missing]
        typed = expanded(OmegaConf.to_object(config))
    except OmegaConfBaseException as error:  # an interpolation that leads nowhere
        return [f"{error.full_key}: {str(error.msg).splitlines()[0]}"]
    problems = list(_bound_problems(typed))
    # Values of the model group that no name could hold; its fields are checked later.
    model: dict[str, Any] = getattr(typed, "model", {})
    for name, value in model.items():
        if isinstance(value, float) and not isfinite(value):
            problems.append(f"model.{name}={value}: must be a finite number")
    problems += form_problems(model) if "model" in config else ()
    return problems or combination_problems(config_name, typed)


def bound_problems(config: DictConfig) -> list[str]:
    """Values out of their bounds, in a configuration that lacks some of the line's words."""
    if OmegaConf.missing_keys(config):
        return []
    try:
        return list(_bound_problems(expanded(OmegaConf.to_object(config))))
    except OmegaConfBaseException:
        return []


def is_elsewhere(line: Line) -> bool:
    """Whether the line sends its jobs to other machines, with other places and memory."""
    return any(word.startswith("hydra/launcher=") for word in line.words)


def deep_problems(
    config_name: str, configs: list[DictConfig], line: Line | None = None
) -> list[str]:
    """Problems of jobs that only the models decide; imports PyTorch.

    Whether they fit into memory is asked of this machine, unless the line sends them to others.
    """
    elsewhere = line is not None and is_elsewhere(line)
    problems: list[str] = []
    for config in configs:
        if len(problems) >= MOST_OF_BAD:
            break
        of_job = []
        if "model" in config:
            # The model group against the config dataclass of its class; each is asked once.
            model: Any = OmegaConf.to_container(config.model, resolve=True)
            if (key := repr(model)) not in _MODELS:
                target = model["target"]
                try:
                    model_class(target)
                    found = [
                        _field_problem(target, name, type(value).__name__, f"{value}")
                        for name, value in model_spec(model, 1).config.items()
                    ]
                    _MODELS[key] = [problem for problem in found if problem]
                except UserError as error:  # there is no such class
                    _MODELS[key] = [str(error)]
            of_job = _MODELS[key]
        if not of_job:
            typed = expanded(OmegaConf.to_object(config))
            of_job = deep_combination_problems(config_name, typed)
            of_job = of_job or ([] if elsewhere else memory_problems(typed))
        problems += of_job
    return list(dict.fromkeys(problems))


def show(config_name: str, line: Line, examined: Examined) -> int:
    """`--cfg`: print the configuration of every job, Hydra's own where that was asked for."""
    kind = line.asks("--cfg").partition("=")[2]
    words = quoted(config_name, line.words)
    for job_words, config in zip(examined.words, examined.configs, strict=True):
        if kind != "job":
            with initialize_config_dir(str(FOLDER), version_base="1.3"):
                plain = [word for word in job_words.split(" ") if word] if line.multirun else words
                plain = [*search_words(line.config_dir), *plain]
                config = compose(config_name, overrides=plain, return_hydra_config=True)
                if kind == "hydra":
                    config = OmegaConf.masked_copy(config, ["hydra"])
        if line.multirun:
            print(
                f"# {job_words}" if not examined.words.index(job_words) else f"---\n# {job_words}"
            )
        print(OmegaConf.to_yaml(config, resolve=bool(line.asks("--resolve"))), end="")
    return 0


_MODELS: dict[str, list[str]] = {}


@functools.cache  # the jobs of a sweep differ in few values
def _field_problem(target: str, name: str, kind: str, text: str) -> str | None:
    """What is wrong with one field of a model, whose value has the type `kind`."""
    config_class = model_class(target).Config
    known = {item.name: item for item in fields(config_class)}
    if name not in known:
        return f"model.{name} is not a field of {target}"
    hint = typing.get_type_hints(config_class)[name]
    if kind == "str" and str in (hint, *typing.get_args(hint)):
        return None  # any text, which need not be one of Hydra's
    expected = OmegaConf.structured(config_class)
    OmegaConf.set_readonly(expected, False)  # it is frozen; values are tried on it all the same
    if problem := misfit(OmegaConf.create({"model": expected}), f"model.{name}", text):
        return problem
    if kind == "int" and float in (hint, *typing.get_args(hint)):
        kind = "float"  # 0 is a share, and no number of something
    if kind == "float" and not isfinite(float(text)):
        return f"model.{name}={text}: must be a finite number"
    low = known[name].metadata.get("low", 1)  # of a count that may be 0
    return count_problem(name, int(text), low) if kind == "int" else None


def _bound_problems(config: Any, prefix: str = "") -> Iterator[str]:
    """Values outside the choices and bounds that their fields declare."""
    for item in fields(config):
        value, name = getattr(config, item.name), f"{prefix}{item.name}"
        if is_dataclass(value):
            yield from _bound_problems(value, f"{name}.")
            continue
        yield from value_problems(name, value, item.metadata)
