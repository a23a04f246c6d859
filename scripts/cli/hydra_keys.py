"""Hydra's own keys on a command line: whether its configuration has them, and takes their values.

Hydra would end in a traceback, or in several lines and status 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from core.bounds import nearest
from scripts.cli.values import has, misfit, names

LAUNCHER, SWEEPER = "hydra/launcher", "hydra/sweeper"


def own_problems(
    config_name: str, overrides: Sequence[Override], sweeper: str = "basic"
) -> list[str]:
    """What is wrong with overrides of a line whose jobs `sweeper` proposes."""
    if not overrides:
        return []
    loader = GlobalHydra.instance().config_loader()
    groups = [override for override in overrides if "/" in override.key_or_group]
    problems = []
    for override in groups:
        group, name = override.key_or_group, override.get_value_element_as_str()
        members = loader.get_group_options(group)
        if name in members:
            continue
        if group == LAUNCHER and name.startswith("submitit_"):
            problems.append(
                f"{LAUNCHER}={name} needs the package hydra-submitit-launcher: "
                "pip install -e '.[scale]'"
            )
        else:
            what = group.rpartition("/")[2]
            problems.append(f"{group}={name}: no such {what}{nearest(name, members)}")
    if problems:
        return problems
    words = [f"{SWEEPER}={sweeper}", *(str(override.input_line) for override in groups)]
    try:
        base = compose(config_name, overrides=words, return_hydra_config=True)
    except Exception as error:
        return [unmade(error)]
    return [
        problem
        for override in overrides
        if override not in groups
        for problem in _problems(base, override)
    ]


def unmade(error: Exception) -> str:
    """Explain a line of which Hydra makes no configuration, whatever it raises."""
    if "recursion depth" in str(error):
        return "the files that this line chooses name one another in a circle: mend their defaults"
    lines = str(error).strip().splitlines()
    reason = lines[0].strip() if lines else type(error).__name__
    return (
        f"Hydra makes no configuration of this line ({reason}): leave out or mend that word, or "
        "the file that it chooses"
    )


def _problems(base: DictConfig, override: Override) -> Iterator[str]:
    name = override.key_or_group
    parent = name.rpartition(".")[0]
    if override.is_sweep_override():
        yield f"{override.input_line!r}: Hydra's own keys hold for all runs: give one value"
        return
    if not has(base, name):
        choices = base.hydra.runtime.choices
        is_grid = parent == "hydra.sweeper" and choices[SWEEPER] == "basic"
        group = LAUNCHER if parent == "hydra.launcher" else SWEEPER
        of = "" if is_grid else f" of {group}={choices[group]}"
        prefix = "max_" if is_grid else ""  # the others are not for a line
        keys = [
            key
            for key in names(OmegaConf.select(base, parent), f"{parent}.")
            if key.startswith(f"{parent}.{prefix}") and not key.startswith(f"{parent}._")
        ]
        way_out = nearest(name, keys) or ", which has none: choose a launcher that has it"
        yield f"unknown key {name!r}{of}{way_out}"
        return
    if name == "hydra.verbose":
        value = override.value()
        several = value if isinstance(value, list) else [value]
        if not isinstance(value, bool) and not all(isinstance(each, str) for each in several):
            text = override.get_value_element_as_str()
            yield f"{name}={text}: expected true, false, or names of loggers"
        return
    if problem := misfit(base, name, override.get_value_element_as_str()):
        yield problem
    elif name == "hydra.sweeper.max_batch_size":
        size = OmegaConf.select(base, name)
        if size is not None and size < 1:
            yield f"{name}={size}: must be at least 1"
