"""A line whose jobs a sweeper proposes one after the other: what it searches, and what is checked.

`hydra/sweeper=optuna` is `scripts.cli.study`; any other sweeper that is installed as a plug-in of
Hydra, as hydra-nevergrad-sweeper or hydra-ax-sweeper, is run by Hydra itself. Its proposals get the
default names of runs, so with a fixed seed the same command repeats no finished run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import IntervalSweep, Override

from conf import schema
from core.errors import UserError
from scripts.cli.arguments import UNREADABLE, parsed, quoted
from scripts.cli.collisions import PLACING, is_idle
from scripts.cli.hydra_flags import Line, hydra_problem
from scripts.cli.hydra_keys import SWEEPER, own_problems

GRID = ("", "basic")
MOST_VALUES = 1000  # of one key
WORD = re.compile(r"hydra(/sweeper/[a-z]\w*=\w+|\.sweeper(\.[a-z]\w*)+=[^{$]*)")
"""An option of a sweeper; none that could name other people's code."""


@dataclass(frozen=True)
class Search:
    """The words of a line, sorted."""

    space: dict[str, str]
    """The values of each searched key, as the command line has them."""
    fixed: list[str]
    options: list[str]
    """Hydra's own words, without the sweeper's name."""
    config_dir: Path | None

    def lines(self) -> list[Line]:
        """Lines that its jobs may have: one for each value of a list and each end of an interval,
        so that a wrong one is found before any job.

        Raises `UserError` for values that there cannot be.
        """
        values = {key: values_to_check(f"{key}={text}") for key, text in self.space.items()}
        for key, several in values.items():
            if len({*several}) == 1:
                raise UserError(
                    f"'{key}={self.space[key]}' has one value, so it cannot be searched: write "
                    f"{key}={several[0]}, and search another key"
                )
        first = {key: several[0] for key, several in values.items()}
        possible = [first] + [
            {**first, key: value} for key, several in values.items() for value in several[1:]
        ]
        return [
            Line(
                [*self.fixed, *(f"{key}={value}" for key, value in words.items())],
                config_dir=self.config_dir,
            )
            for words in possible
        ]


def sweeper_of(line: Line) -> str:
    """The sweeper that proposes the jobs of a line; empty where they are those of a grid."""
    named = [word.partition("=")[2] for word in line.words if word.startswith(f"{SWEEPER}=")]
    return "" if not named or named[-1] in GRID else named[-1]


def read_search(line: Line) -> Search:
    """What a line searches. Raises `UserError` for a line that cannot be searched."""
    sweeper = f"{SWEEPER}={sweeper_of(line)}"
    if not line.multirun:
        raise UserError(f"{sweeper} runs several trials: add -m")
    if printed := line.asks("--cfg") or line.asks("--info"):
        raise UserError(f"{printed}: a study has no configuration to print; leave one of them out")
    search = Search({}, [], [], line.config_dir)
    for word, written in zip(line.words, quoted("train", line.words, multirun=True), strict=True):
        key, _, text = written.partition("=")
        override = parsed(written)
        if key == SWEEPER:
            continue
        if key.startswith("hydra"):
            search.options.append(word)
        elif override is None:
            raise UserError(
                f"{word!r} cannot be read: write key=value, key=a,b or key=interval(LOW,HIGH)"
            )
        elif override.is_sweep_override():
            if is_idle(key) or key in PLACING:
                raise UserError(
                    f"{word!r}: {key} decides nothing about what a trial ends in: give it one value"
                )
            search.space[key] = text
        else:
            search.fixed.append(word)
    for key in search.space:
        if sum(word.partition("=")[0] == key for word in line.words) > 1:
            raise UserError(f"{key} is searched, and given once more: give it once")
    if not search.space:
        raise UserError("nothing to search: give a key several values, or interval(LOW,HIGH)")
    groups = [word.partition("=")[2] for word in search.fixed if word.startswith("group=")]
    if not groups or groups[-1] in ("", "null"):
        raise UserError("a study needs group=NAME: runs/NAME holds its runs")
    if any(word.startswith("name=") for word in search.fixed):
        raise UserError("name= would name every trial: leave it out; each gets a name of its own")
    return search


def read_other_search(line: Line) -> Search:
    """What a line with a sweeper that Hydra runs searches.

    Raises `UserError` as `read_search`, and if the sweeper is not installed.
    """
    with initialize_config_dir(str(schema.FOLDER), version_base="1.3"):
        installed = GlobalHydra.instance().config_loader().get_group_options(SWEEPER)
        if sweeper_of(line) in installed:
            search = read_search(line)
            if problems := own_problems("train", _overrides(search), sweeper_of(line)):
                raise UserError("; ".join(problems))
            return search
    others = ", ".join(name for name in installed if name not in (*GRID, "optuna"))
    near = get_close_matches(sweeper_of(line), [*installed, "optuna"], 1)
    meant = f"did you mean {near[0]}? " if near else ""
    raise UserError(
        f"{SWEEPER}={sweeper_of(line)}: no such sweeper is installed here; {meant}{SWEEPER}=optuna "
        f"searches (pip install -e '.[sweeps]'){f', and so does {others}' if others else ''}; "
        "without the word a grid is run"
    )


def _overrides(search: Search) -> list[Override]:
    """Hydra's own words. Raises `UserError` for one that is not for a command line."""
    overrides = []
    for word in search.options:
        allowed = WORD.fullmatch(word) or not hydra_problem(word)
        override = parsed(word) if allowed else None
        if override is None:
            raise UserError(
                f"{word!r}: of Hydra's own keys only those of its launcher and of the sweeper can "
                "be set"
            )
        overrides.append(override)
    return overrides


def values_to_check(word: str) -> list[str]:
    """Each value of a list or range, and the ends of an interval.

    Raises `UserError` where there is none, or there are too many.
    """
    override = parsed(word)
    try:
        if override is None or not override.is_sweep_override():
            raise ValueError("it names no values")
        value = override.value()
        if isinstance(value, IntervalSweep):
            return list(dict.fromkeys([str(value.start), str(value.end)]))
        return listed(override.sweep_string_iterator())
    except UNREADABLE as error:
        raise UserError(f"{word!r} cannot be searched: {error}") from None


def listed(values: Iterable[Any]) -> list[str]:
    """The values of a list. Raises `ValueError` where there is none, or there are too many."""
    several = [str(each) for each in islice(values, MOST_VALUES + 1)]
    if not several or len(several) > MOST_VALUES:
        raise ValueError(f"it has {f'over {MOST_VALUES}' if several else 'no'} values")
    return several
