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
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, Sweep
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf import schema
from conf.schema import FOLDER
from core.bounds import nearest, value_problems
from core.errors import UserError
from models.registry import model_class
from scripts.cli import arguments as words_of
from scripts.cli import study
from scripts.cli.arguments import expanded, quoted
from scripts.cli.collisions import collision_problems
from scripts.cli.config_folder import composing_problem, folder_problems, folders, search_words
from scripts.cli.cross_checks import (
    combination_problems,
    deep_combination_problems,
    memory_problems,
)
from scripts.cli.hydra_flags import Line, hydra_problem, parse
from scripts.cli.hydra_keys import own_problems, unmade
from scripts.cli.limits import excess, too_many_jobs
from scripts.cli.model_spec import model_spec
from scripts.cli.probed_models import word_problems
from scripts.cli.search import read_other_search, sweeper_of
from scripts.cli.source_model import with_source_model
from scripts.cli.values import has, misfit, names

SYNONYMS = {
    **dict.fromkeys(("learning_rate", "max_lr", "peak_lr"), "optim.lr"),
    **dict.fromkeys(("min_lr", "end_lr", "learning_rate_final"), "optim.final_lr"),
    **dict.fromkeys(("warmup", "warmup_iters", "warmup_ratio"), "optim.warmup_steps"),
    **dict.fromkeys(("steps", "max_iters", "num_steps", "iterations"), "trainer.max_steps"),
    **dict.fromkeys(
        ("context", "context_length", "seq_len", "ctx_len", "block_size"), "data.length"
    ),
    **dict.fromkeys(("batch", "micro_batch_size", "bsz"), "data.batch_size"),
    **dict.fromkeys(("grad_clip", "max_grad_norm"), "trainer.gradient_clip_val"),
    **dict.fromkeys(("gpus", "num_devices"), "trainer.devices"),
    "grad_cp": "training.gradient_checkpointing",
    "random_seed": "seed",
}  # other people's words for keys, where the spelling leads elsewhere
MOST_JOBS = 200  # of a multirun that are checked as a whole before any starts
MOST_OF_BAD = 20  # the same of a line that is refused anyway, and problems of one key


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
    given = [word.partition("=")[0] for word in line.words]
    idle = {f"{group}=null" for group in nulls if given.count(group) == 1}
    # `+GROUP=NAME`, as Hydra's users write where a group has no default.
    added = {f"+{group}" for group in nulls}
    line.words = [word[1:] if word.partition("=")[0] in added else word for word in line.words]
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
            words = [*_recipe_sweep(config_name, words, line.config_dir), *words]
        overrides, problems = _parse(config_name, words, line.multirun)
        groups = [override for override in overrides if _is_group(override)]
        keys = [override for override in overrides if not _is_group(override)]
        choices = [_values(override) for override in groups]
        before = len(problems)
        for override, values in zip(groups, choices, strict=True):
            problems += _group_problems(config_name, override, values, line.config_dir)
        unknown = len(problems) > before
        if problems:  # without its groups the rest of the line is judged on the default ones
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
                    keys = [each for each in keys if _is_of_schema(base, each)]
                wrong = {id(override): list(_key_problems(base, override)) for override in keys}
                problems += itertools.chain.from_iterable(wrong.values())
                good = [override for override in keys if not wrong[id(override)]]
                bases[combination] = base, good
            most = MOST_OF_BAD if problems else MOST_JOBS
            for job_words, config in itertools.islice(_jobs(*bases[combination]), most):
                examined.configs.append(config)
                examined.words.append(" ".join([*selected, *job_words]))
            if len(examined.configs) >= most:
                break
    del examined.configs[MOST_JOBS:]
    examined.line_problems = list(dict.fromkeys(problems))
    for config in examined.configs:
        if len(problems) >= MOST_OF_BAD:  # nobody reads on
            break
        problems += bound_problems(config) if unknown else light_problems(config_name, config)
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
            return [f"{name} has no value: give it on the command line" for name in missing]
        typed = expanded(OmegaConf.to_object(config))
    except OmegaConfBaseException as error:  # an interpolation that leads nowhere
        return [f"{error.full_key}: {str(error.msg).splitlines()[0]}"]
    problems = list(_bound_problems(typed))
    # Values of the model group that no name could hold; its fields are checked later.
    model: dict[str, Any] = getattr(typed, "model", {})
    for name, value in model.items():
        if isinstance(value, float) and not isfinite(value):
            problems.append(f"model.{name}={value}: must be a finite number")
    for name in ("name", "target"):
        if not isinstance(model.get(name, ""), str):
            problems.append(f"model.{name}={model[name]}: expected a name")
    return problems or combination_problems(config_name, typed)


def bound_problems(config: DictConfig) -> list[str]:
    """Values out of their bounds, in a configuration of whose groups one is not the line's."""
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
                try:
                    _MODELS[key] = list(_field_problems(model))
                except UserError as error:
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


def _parse(config_name: str, words: list[str], multirun: bool) -> tuple[list[Override], list[str]]:
    """What the words say in Hydra's grammar, and what none of its scripts can do."""
    parser, loader = OverridesParser.create(), GlobalHydra.instance().config_loader()
    kinds = {name: kind for name, kind, _ in words_of.keys(schema.SCRIPTS[config_name])}
    overrides, hydra_overrides, problems = [], [], []
    for word in words:
        name, _, text = word.partition("=")
        try:
            override = parser.parse_override(word)
            override.config_loader = loader  # for glob()
        except words_of.UNREADABLE as error:
            problems.append(_unreadable(word, str(error).partition("\n")[0]))
            continue
        if override.key_or_group.split(".")[0].split("/")[0] == "hydra":
            problem_of_form = hydra_problem(word)
            problems += problem_of_form
            hydra_overrides += [] if problem_of_form else [override]
            continue
        if override.is_delete() or override.is_add() or override.is_force_add():
            problems.append(f"{word!r}: keys cannot be added or removed; write key=value")
        elif "@" in name:
            group = name.partition("@")[0]
            problems.append(f"{word!r}: a group has one place; write {group}={text}")
        elif _within(override.value()):
            problems.append(f"{word!r}: a range or a choice cannot stand within a list or a map")
        elif override.is_sweep_override() and not override.is_discrete_sweep():
            problems.append(
                f"{word!r}: an interval has no values to run one after the other; write some, as "
                f"in {name}=1e-4,1e-3, or a range(...) (intervals need a sweeper such as optuna)"
            )
        elif (
            kinds.get(name) is list
            and isinstance(sweep := override.value(), ChoiceSweep)
            and not any(isinstance(item, list | dict) for item in sweep.list)
        ):
            problems.append(f"{word!r}: several values of one list go in brackets: {name}=[{text}]")
        elif override.is_sweep_override() and not multirun:
            problems.append(f"{word!r} names several values: add -m to run them all")
        elif problem := too_many_jobs([override]):
            problems.append(f"{word!r}: {problem}")
        elif override.is_sweep_override() and not _values(override):
            problems.append(f"{word!r} stands for no value at all")
        else:
            overrides.append(override)
    problems += own_problems(config_name, hydra_overrides)
    if problem := too_many_jobs(overrides):
        return [], [*problems, problem]
    return overrides, problems


def _within(value: Any) -> bool:
    """Whether a list or map holds several values of a sweep, which no job could be given."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(isinstance(one, Sweep) or _within(one) for one in inner)


def _unreadable(word: str, reason: str) -> str:
    """Explain a word that Hydra's grammar refuses."""
    name, equals, text = word.partition("=")
    if not equals:
        return f"{word!r} is not of the form key=value"
    called = re.search(r"while evaluating '.*?': (?!Unknown function)(.*)", reason)
    if called and called[1].startswith("mismatch type"):  # in the types of Hydra's functions
        function = text.partition("(")[0]
        return (
            f"{word!r}: {function}() does not take these values; write the values themselves, "
            f"as in {name}=A,B"
        )
    if called:
        return f"{word!r}: {called[1]}"
    inner = text.replace("'", "") or "value"
    return (
        f"{word!r} is not of the form key=value: Hydra's grammar cannot read the value; if it is "
        f"meant as it stands, put it in quotes within quotes: \"{name}='{inner}'\""
    )


def _recipe_sweep(config_name: str, words: list[str], config_dir: Path | None) -> list[str]:
    """What an experiment sweeps by itself, or those it stands on (`hydra.sweeper.params`), as words
    of a command line.

    Keys that the line gives are the line's, as in Hydra.
    """
    given = dict(word.split("=", 1) for word in words if "=" in word)
    if given.get("experiment", "null") == "null":
        return []
    chosen = [*search_words(config_dir), f"experiment={given['experiment']}"]
    try:
        config = compose(config_name, overrides=chosen, return_hydra_config=True)
    except Exception:  # what is wrong with it is told where the whole line is composed
        return []
    params: Any = OmegaConf.to_container(config.hydra.sweeper.params or OmegaConf.create())
    return [f"{name}={values}" for name, values in params.items() if name not in given]


def _is_group(override: Override) -> bool:
    return (FOLDER / override.key_or_group).is_dir()


def _is_of_schema(base: DictConfig, override: Override) -> bool:
    """Whether a key is the same whatever member its group has, as `model.` is not."""
    top = override.key_or_group.partition(".")[0]
    return not ((FOLDER / top).is_dir() and OmegaConf.get_type(base, top) is dict)


def _values(override: Override) -> list[str]:
    """What an override stands for: one value, or each value of a sweep."""
    if override.is_sweep_override():
        return [str(value) for value in override.sweep_string_iterator()]
    return [override.get_value_element_as_str()]


def _group_problems(
    config_name: str, override: Override, values: list[str], config_dir: Path | None
) -> Iterator[str]:
    group = override.key_or_group
    members = [
        path.stem
        for folder in folders(config_dir)
        for path in sorted((folder / group).glob("*.yaml"))
    ]
    text = (FOLDER / f"{config_name}.yaml").read_text()
    if not re.search(rf"^\s+- {group}:", text, re.MULTILINE):
        yield f"{group}= has no meaning for {config_name}.py"
        return
    for value in values:
        if value == "null" and f"{group}: null" in text:
            yield f"{group}=null: beside other values of {group}= there can be no null"
        elif value not in members:
            yield f"{group}={value}: no such {group}{nearest(value, members)}"


def _key_problems(base: DictConfig, override: Override) -> Iterator[str]:
    name = override.key_or_group
    if not has(base, name):
        if (meant := SYNONYMS.get(name.split(".")[-1].lower())) and has(base, meant):
            yield f"unknown key {name!r}; did you mean {meant!r}?"
            return
        choices = [*(path.name for path in FOLDER.iterdir() if path.is_dir()), *names(base)]
        same_leaf = [other for other in choices if other.split(".")[-1] == name.split(".")[-1]]
        hint = f"; did you mean {same_leaf[0]!r}?" if same_leaf else nearest(name, choices)
        yield f"unknown key {name!r}{hint if len(hint) < 200 else ''}"
        return
    trial = base.copy()  # an update that fails leaves no trace in it
    problems = (misfit(trial, name, text) for text in _values(override))
    yield from itertools.islice(filter(None, problems), MOST_OF_BAD)


def _jobs(base: DictConfig, keys: list[Override]) -> Iterator[tuple[list[str], DictConfig]]:
    """The words and the configuration of every job that the values of the keys span."""
    names = [override.key_or_group for override in keys]
    jobs = itertools.product(*(_values(override) for override in keys))
    parser = OverridesParser.create()
    for values in jobs:
        config = base.copy()
        words = [f"{name}={text}" for name, text in zip(names, values, strict=True)]
        for name, word in zip(names, words, strict=True):
            OmegaConf.update(config, name, parser.parse_override(word).value(), merge=True)
        yield words, config


_MODELS: dict[str, list[str]] = {}


def _field_problems(model: dict[str, Any]) -> Iterator[str]:
    """Raises `UserError` if there is no such class."""
    model_class(model["target"])
    for name, value in model_spec(model, 1).config.items():
        if problem := _field_problem(model["target"], name, type(value).__name__, f"{value}"):
            yield problem


@functools.cache  # the jobs of a sweep differ in few values
def _field_problem(target: str, name: str, kind: str, text: str) -> str | None:
    """What is wrong with one field of a model, whose value has the type `kind`."""
    config_class = model_class(target).Config
    if name not in {item.name for item in fields(config_class)}:
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
    most = schema.LAYERS if name == "n_layer" else schema.TOKENS
    if kind == "float" and not isfinite(float(text)):
        return f"model.{name}={text}: must be a finite number"
    if kind == "int" and int(text) < 1:
        return f"model.{name}={text}: must be at least 1"
    if kind == "int" and int(text) > most:
        return f"model.{name}={text}: must be at most {most}"
    return None


def _bound_problems(config: Any, prefix: str = "") -> Iterator[str]:
    """Values outside the choices and bounds that their fields declare."""
    for item in fields(config):
        value, name = getattr(config, item.name), f"{prefix}{item.name}"
        if is_dataclass(value):
            yield from _bound_problems(value, f"{name}.")
            continue
        yield from value_problems(name, value, item.metadata)
