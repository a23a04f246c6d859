"""What the words of a command line ask of the configuration, and what of that cannot be.

Hydra's grammar reads each word by itself. A group's word chooses a file, a key's word gives a value
or, in a multirun, several, which span the jobs.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, Sweep
from omegaconf import DictConfig, OmegaConf

from conf import schema
from conf.schema import FOLDER
from core.bounds import nearest
from scripts.cli import arguments as words_of
from scripts.cli.config_folder import folders, search_words
from scripts.cli.hydra_flags import hydra_problem
from scripts.cli.hydra_keys import own_problems
from scripts.cli.limits import too_many_jobs
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
MOST_OF_BAD = 20  # jobs of a line that is refused anyway, and problems of one key


def overrides_of(
    config_name: str, words: list[str], multirun: bool
) -> tuple[list[Override], list[str]]:
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
        elif override.is_sweep_override() and not values_of(override):
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


def recipe_sweep(config_name: str, words: list[str], config_dir: Path | None) -> list[str]:
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


def is_group(override: Override) -> bool:
    """Whether the word chooses a file of a group."""
    return (FOLDER / override.key_or_group).is_dir()


def is_of_schema(base: DictConfig, override: Override) -> bool:
    """Whether a key is the same whatever member its group has, as `model.` is not."""
    top = override.key_or_group.partition(".")[0]
    return not ((FOLDER / top).is_dir() and OmegaConf.get_type(base, top) is dict)


def values_of(override: Override) -> list[str]:
    """What an override stands for: one value, or each value of a sweep."""
    if override.is_sweep_override():
        return [str(value) for value in override.sweep_string_iterator()]
    return [override.get_value_element_as_str()]


def group_problems(
    config_name: str, override: Override, values: list[str], config_dir: Path | None
) -> Iterator[str]:
    """What is wrong with the values of a group's word."""
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
        elif re.sub(r"\\(.)", r"\1", value) not in members:  # as Hydra escapes it
            other = [folder / group / f"{value}.yml" for folder in folders(config_dir)]
            found = [path for path in other if path.is_file()]
            near = f"; {found[0]} must end in .yaml" if found else nearest(value, members)
            yield f"{group}={value}: no such {group}{near}"


def key_problems(base: DictConfig, override: Override) -> Iterator[str]:
    """What is wrong with a key's word, and with each of its values, in the configuration `base`."""
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
    problems = (misfit(trial, name, text) for text in values_of(override))
    yield from itertools.islice(filter(None, problems), MOST_OF_BAD)


def jobs_of(base: DictConfig, keys: list[Override]) -> Iterator[tuple[list[str], DictConfig]]:
    """The words and the configuration of every job that the values of the keys span."""
    names = [override.key_or_group for override in keys]
    jobs = itertools.product(*(values_of(override) for override in keys))
    parser = OverridesParser.create()
    for values in jobs:
        config = base.copy()
        words = [f"{name}={text}" for name, text in zip(names, values, strict=True)]
        for name, word in zip(names, words, strict=True):
            OmegaConf.update(config, name, parser.parse_override(word).value(), merge=True)
        yield words, config
