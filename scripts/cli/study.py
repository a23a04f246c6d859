"""`hydra/sweeper=optuna`: a search whose trials are runs of one group, and which can be continued.

The words of the line keep Hydra's grammar: `optim.lr=tag(log,interval(1e-4,1e-2))`,
`model.n_layer=range(2,5)`, `optim.warmup_steps=int(interval(10,50))`, `model=rwkv4,rwkv7`.

The study is `runs/GROUP/study.json`: what is searched, and the words, state and value of every
trial. It is written before a trial starts and after it has ended, so the same command goes on after
a kill: finished trials are not repeated, and one that was interrupted is the same run, continued.
What a sampler proposes follows from the seed, the number of the trial and the finished ones alone.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import random
import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException

from conf.schema import TrainConf
from core.errors import UserError, shown
from core.files import write_text
from core.parsing import Missing, Unreadable, read_object
from core.stop_signals import STOPPED, Preempted, Signals, requeue, stop_before_more
from core.units import counted
from scripts.cli.arguments import parsed
from scripts.cli.hydra_flags import Line
from scripts.cli.hydra_keys import SWEEPER
from scripts.cli.search import listed, read_search
from training.run_folder.folder import RunFolder
from training.run_folder.lock import owned

NAME = "optuna"
SAMPLERS = ("tpe", "random")
OPTIONS: dict[str, str] = {
    "hydra/sweeper/sampler": "tpe",
    "hydra.sweeper.n_trials": "20",
    "hydra.sweeper.seed": "0",
}
"""Words that a study takes beside the keys of the run, with their defaults."""
DIGITS = 4  # of a proposed number
ORDER = {"complete": 0, "pruned": 1, "failed": 2, "running": 3}
"""States of a trial, as the table has them."""


@dataclass
class Trial:
    """One run of the study."""

    number: int
    words: list[str]
    state: str = "running"
    """One of `ORDER`."""
    value: float | None = None
    reason: str | None = None


@dataclass
class Study:
    """What is searched, and what came of it so far."""

    space: dict[str, str]
    """The values of each searched key, as the command line has them."""
    fixed: list[str]
    sampler: str
    seed: int
    trials: list[Trial] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Study | None:
        """Raises `UserError` if what lies there is no study."""
        try:
            content = read_object(path)
            if content.keys() != {item.name for item in fields(cls)}:
                raise ValueError(f"its keys are {shown([*content], 100)}")
            trials = content.pop("trials")
            if not isinstance(trials, list) or not isinstance(content["space"], dict):
                raise ValueError("its space or its trials are of another kind")
            study = cls(**content)
            spaces = study.distributions()
            for number, trial in enumerate(trials):
                study.trials.append(_trial(trial, number, spaces))
            return study
        except Missing:
            return None
        except (Unreadable, UserError, TypeError, ValueError) as error:
            reason = error.reason if isinstance(error, Unreadable) else str(error)
            raise UserError(
                f"{path} is no study ({shown(reason, 200)}): move it away to begin the search again"
            ) from None

    def distributions(self) -> dict[str, Any]:
        """What each key is drawn from."""
        spaces = {}
        for key, text in self.space.items():
            override = parsed(f"{key}={text}")
            if override is None or not override.is_sweep_override():
                raise ValueError(f"{shown(key)}={shown(text)} names no values")
            spaces[key] = distribution(override)
        return spaces

    def first(self) -> dict[str, str]:
        """A value that each key can have, to check a line with."""
        return {
            key: drawn.choices[0] if hasattr(drawn, "choices") else _text(drawn.low, drawn)
            for key, drawn in self.distributions().items()
        }

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(asdict(self), indent=2) + "\n")

    def words(self, trial: Trial) -> list[str]:
        """The words of the run of a trial."""
        return [*self.fixed, *trial.words, f"name=trial-{trial.number}"]

    def is_same(self, other: Study) -> bool:
        """Whether both search the same; only the number of trials may differ."""
        return {**asdict(self), "trials": []} == {**asdict(other), "trials": []}


def _trial(content: Any, number: int, spaces: dict[str, Any]) -> Trial:
    """A recorded trial. Raises `ValueError` unless it is one of this search."""
    if not isinstance(content, dict) or content.keys() != {item.name for item in fields(Trial)}:
        raise ValueError(f"trial {number} is none")
    trial = Trial(**content)
    is_finite = type(trial.value) is float and math.isfinite(trial.value)
    fits = (
        type(trial.number) is int
        and trial.number == number
        and trial.state in ORDER
        and (is_finite if trial.state in ("complete", "pruned") else trial.value is None)
        and (trial.reason is None or isinstance(trial.reason, str))
        and isinstance(trial.words, list)
        and all(isinstance(word, str) for word in trial.words)
        and [word.partition("=")[0] for word in trial.words] == [*spaces]
    )
    if not fits:
        raise ValueError(f"trial {number} is wrong")
    for word, space in zip(trial.words, spaces.values(), strict=True):
        if not space._contains(space.to_internal_repr(_value(space, word.partition("=")[2]))):
            raise ValueError(f"trial {number}: {shown(word, 80)} is outside of the search")
    return trial


def begin(line: Line) -> tuple[Study, int, list[Line]]:
    """The study that a line asks for, its number of trials, and lines that its trials may have.

    Raises `UserError` if optuna is missing, an option is wrong, or nothing is searched.
    """
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise UserError(
            f"{SWEEPER}={NAME} needs the package optuna: pip install -e '.[sweeps]'"
        ) from None
    search = read_search(line)
    options = dict(OPTIONS)
    for word in search.options:
        key, _, text = word.partition("=")
        if key not in OPTIONS:
            raise UserError(f"{word!r}: a study takes {', '.join(OPTIONS)}")
        options[key] = text
    if (sampler := options["hydra/sweeper/sampler"]) not in SAMPLERS:
        raise UserError(f"hydra/sweeper/sampler={sampler}: choose one of {', '.join(SAMPLERS)}")
    trials, seed = (_count(key, options[key]) for key in list(OPTIONS)[1:])
    study = Study(search.space, search.fixed, sampler, seed)
    study.distributions()
    return study, trials, search.lines()


def run(
    study: Study,
    trials: int,
    conf_of: Callable[[list[str]], TrainConf],
    train: Callable[[TrainConf], Any],
    show: Callable[[str], None],
) -> int:
    """Run what is left of `trials`, and show the table; how many trials failed.

    `conf_of` makes a run's configuration of words, and raises `UserError` where they make none.
    """
    conf = conf_of([*study.fixed, *(f"{key}={value}" for key, value in study.first().items())])
    path = Path(conf.runs_dir, str(conf.group), "study.json")
    # A signal between two trials ends as one within a trial does.
    with _stopping(path), owned(RunFolder(path.parent)):
        before = Study.read(path)
        if before is not None and not study.is_same(before):
            raise UserError(
                f"{path} is of another search (other words, sampler or seed): choose another "
                "group, or move it away"
            )
        study = before or study
        for number in range(trials):
            if number == len(study.trials):
                study.trials.append(Trial(number, propose(study, number)))
            trial = study.trials[number]
            if trial.state in ("complete", "pruned"):
                continue
            stop_before_more()
            trial.state, trial.value, trial.reason = "running", None, None
            study.write(path)
            begin_trial = functools.partial(conf_of, study.words(trial))
            _attempt(trial, begin_trial, train, path, show)
            study.write(path)
        print(table(study, trials, path))
    return sum(trial.state == "failed" for trial in study.trials[:trials])


@contextmanager
def _stopping(path: Path) -> Iterator[None]:
    """Say on being stopped that the same command goes on, and leave with that status."""
    try:
        with Signals():
            yield
    except Preempted as stop:
        logging.getLogger("crossover").warning(
            "%s: stopped (exit status %d); the same command goes on", path, STOPPED
        )
        if stop.requeue:
            requeue()
        raise


def _attempt(
    trial: Trial,
    conf: Callable[[], TrainConf],
    train: Callable[[TrainConf], Any],
    path: Path,
    show: Callable[[str], None],
) -> None:
    """Train, and enter how that ended; what goes wrong ends this trial alone."""
    try:
        value = train(conf())
    except Exception as error:
        if not isinstance(error, UserError):
            traceback.print_exc()
        what = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        trial.state, trial.reason = "failed", what
        show(f"trial-{trial.number}: {what}")
        return
    if not isinstance(value, float) or not math.isfinite(value):
        trial.state, trial.reason = "failed", f"its objective is {value}"
        return
    trial.value = value
    from probes.training_summaries import was_pruned

    folder = RunFolder(path.parent / f"trial-{trial.number}")
    summary = folder.read_summary()[0] or {}
    reason = summary.get("ended_early")
    trial.reason = reason if isinstance(reason, str) else None
    trial.state = "pruned" if was_pruned(summary) else "complete"


def propose(study: Study, number: int) -> list[str]:
    """The words of the next trial, from the seed, its number and the finished trials alone."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    spaces = study.distributions()
    seed = random.Random(f"{study.seed} {number}").getrandbits(32)
    sampler: Any = {
        "tpe": lambda: optuna.samplers.TPESampler(seed=seed),
        "random": lambda: optuna.samplers.RandomSampler(seed=seed),
    }[study.sampler]()
    search = optuna.create_study(sampler=sampler)
    for trial in study.trials:
        if trial.value is not None:
            texts = (word.partition("=")[2] for word in trial.words)
            params = {
                key: _value(space, text)
                for (key, space), text in zip(spaces.items(), texts, strict=True)
            }
            search.add_trial(
                optuna.trial.create_trial(params=params, distributions=spaces, value=trial.value)
            )
    asked = search.ask(spaces)
    return [f"{key}={_text(asked.params[key], spaces[key])}" for key in spaces]


def distribution(override: Override) -> Any:
    """What Optuna draws a key from. Raises `UserError` for a sweep that it cannot draw from."""
    import optuna.distributions as of

    value: Any = override.value()
    line = override.input_line
    try:
        if isinstance(value, IntervalSweep):
            log = "log" in value.tags
            bounds: Any = (value.start, value.end)
            low, high = bounds
            if isinstance(low, int) and isinstance(high, int):
                return of.IntDistribution(low, high, log=log)
            return of.FloatDistribution(float(low), float(high), log=log)
        if isinstance(value, RangeSweep):
            parts: Any = (value.start, value.stop, value.step)
            start, stop, step = parts
            if all(isinstance(each, int) for each in parts) and step > 0 and stop > start:
                last = start + (stop - start - 1) // step * step  # Hydra leaves out the stop
                return of.IntDistribution(start, last, step=step)
        both = zip(override.sweep_iterator(), override.sweep_string_iterator(), strict=True)
        words = (word if "QuotedString(" in str(given) else given for given, word in both)
        return of.CategoricalDistribution(listed(words))
    except (ValueError, ArithmeticError, HydraException) as error:
        raise UserError(f"{line!r} cannot be searched: {error}") from None


def table(study: Study, trials: int, path: Path) -> str:
    """Every trial, the best first."""
    ranked = sorted(
        study.trials[:trials], key=lambda trial: (ORDER[trial.state], trial.value or 0.0)
    )
    of = "" if len(ranked) == len(study.trials) else f"{len(ranked)} of "
    lines = [f"{path}: {of}{counted(len(study.trials), 'trial')}, the best first"]
    for trial in ranked:
        value = "" if trial.value is None else f"{trial.value:.4f}"
        reason = f"  ({trial.reason})" if trial.reason else ""
        words = " ".join(trial.words)
        lines.append(f"  trial-{trial.number:<4} {trial.state:<9}{value:>9}  {words}{reason}")
    return "\n".join(lines)


def _text(value: Any, space: Any) -> str:
    """A proposed value as a word: numbers are rounded, and stay within their bounds."""
    if not isinstance(value, float):
        return str(value)
    rounded = float(f"{value:.{DIGITS}g}")
    return repr(min(max(rounded, space.low), space.high))


def _value(space: Any, text: str) -> Any:
    if hasattr(space, "choices"):
        return text
    return type(space.low)(text)


def _count(key: str, text: str) -> int:
    least = 0 if key.endswith("seed") else 1
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or int(text) < least:
        raise UserError(f"{key}={text[:40]}: expected a whole number from {least} to 999999999")
    return int(text)
