"""`hydra/sweeper=optuna`: a search whose trials are runs of one group, and which can be continued.

The words of the line keep Hydra's grammar: `optim.lr=tag(log,interval(1e-4,1e-2))`,
`model.n_layer=range(2,5)`, `optim.warmup_steps=int(interval(10,50))`, `model=rwkv4,rwkv7`.

The study is `runs/GROUP/study.json`: what is searched, and the words, state and value of every
trial. It is written before a trial starts and after it has ended, so the same command goes on after
a kill: finished trials are not repeated, and one that was interrupted is the same run, continued.
What a sampler proposes follows from the seed, the number of the trial and the finished ones alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from conf.schema import TrainConf
from core.errors import UserError
from core.files import write_text
from core.parsing import Missing, Unreadable, read_object
from scripts.cli.arguments import parsed
from scripts.cli.hydra_flags import Line

SWEEPER = "hydra/sweeper"
SAMPLERS = ("tpe", "random")
OPTIONS: dict[str, str] = {
    "hydra/sweeper/sampler": "tpe",
    "hydra.sweeper.n_trials": "20",
    "hydra.sweeper.seed": "0",
}
"""Words that a study takes beside the keys of the run, with their defaults."""
DIGITS = 4  # of a proposed number


@dataclass
class Trial:
    """One run of the study."""

    number: int
    words: list[str]
    state: str = "running"
    """running | complete | pruned | failed"""
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
            trials = [Trial(**trial) for trial in content.pop("trials")]
            return cls(**content, trials=trials)
        except Missing:
            return None
        except (Unreadable, TypeError, KeyError, ValueError) as error:
            raise UserError(
                f"{path} is no study ({error!s:.200}): move it away to begin the search again"
            ) from None

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(asdict(self), indent=2) + "\n")

    def is_same(self, other: Study) -> bool:
        """Whether both search the same; only the number of trials may differ."""
        return {**asdict(self), "trials": []} == {**asdict(other), "trials": []}


def is_study(line: Line) -> bool:
    return f"{SWEEPER}=optuna" in line.words


def begin(line: Line) -> tuple[Study, int, Line]:
    """The study that a line asks for, its number of trials, and the line of a first trial.

    Raises `UserError` if optuna is missing, an option is wrong, or nothing is searched.
    """
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise UserError(
            f"{SWEEPER}=optuna needs the package optuna: pip install -e '.[sweeps]'"
        ) from None
    if not line.multirun:
        raise UserError(f"{SWEEPER}=optuna runs several trials: add -m")
    options, space, fixed = dict(OPTIONS), {}, []
    for word in line.words:
        key, _, text = word.partition("=")
        override = parsed(word)
        if key == SWEEPER:
            continue
        if key.startswith("hydra"):
            if key not in OPTIONS:
                raise UserError(f"{word!r}: a study takes {', '.join(OPTIONS)}")
            options[key] = text
        elif override is not None and override.is_sweep_override():
            distribution(override)  # raises for what cannot be searched
            space[key] = text
        else:
            fixed.append(word)
    if not space:
        raise UserError("nothing to search: give a key several values, or interval(LOW,HIGH)")
    if not any(word.startswith("group=") for word in fixed):
        raise UserError("a study needs group=NAME: runs/NAME holds its runs and study.json")
    if any(word.startswith("name=") for word in fixed):
        raise UserError(
            "name= would name every trial: leave it out; trials are trial-0, trial-1 ..."
        )
    if (sampler := options["hydra/sweeper/sampler"]) not in SAMPLERS:
        raise UserError(f"hydra/sweeper/sampler={sampler}: choose one of {', '.join(SAMPLERS)}")
    trials, seed = (_count(key, options[key]) for key in list(OPTIONS)[1:])
    study = Study(space, fixed, sampler, seed)
    first = [f"{key}={_first(key, text)}" for key, text in space.items()]
    return study, trials, Line([*fixed, *first])


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
    path = _path(conf_of([*study.fixed, *(f"{k}={_first(k, v)}" for k, v in study.space.items())]))
    before = Study.read(path)
    if before is not None:
        if not study.is_same(before):
            raise UserError(
                f"{path} is of another search (other words, sampler or seed): choose another "
                "group, or move it away"
            )
        study = before
    for number in range(trials):
        if number == len(study.trials):
            study.trials.append(Trial(number, propose(study, number)))
        trial = study.trials[number]
        if trial.state in ("complete", "pruned"):
            continue
        trial.state, trial.value, trial.reason = "running", None, None
        study.write(path)
        try:
            value = train(conf_of([*study.fixed, *trial.words, f"name=trial-{number}"]))
            finite = isinstance(value, float) and math.isfinite(value)
            trial.state, trial.value = ("complete", value) if finite else ("failed", None)
            trial.reason = None if finite else f"its objective is {value}"
        except UserError as error:
            trial.state, trial.reason = "failed", str(error)
            show(f"trial-{number}: {error}")
        summary = path.parent / f"trial-{number}" / "summary.json"
        if trial.state == "complete" and (early := _ended_early(summary)):
            trial.state, trial.reason = (
                ("pruned", early) if "pruned" in early else ("complete", early)
            )
        study.write(path)
    print(table(study, trials, path))
    return sum(trial.state == "failed" for trial in study.trials[:trials])


def propose(study: Study, number: int) -> list[str]:
    """The words of the next trial, from the seed, its number and the finished trials alone."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    spaces = {key: distribution(_override(key, text)) for key, text in study.space.items()}
    seed = study.seed * 1_000_003 + number
    sampler: Any = {
        "tpe": lambda: optuna.samplers.TPESampler(seed=seed),
        "random": lambda: optuna.samplers.RandomSampler(seed=seed),
    }[study.sampler]()
    search = optuna.create_study(sampler=sampler)
    for trial in study.trials:
        if trial.value is not None:
            texts = dict(word.split("=", 1) for word in trial.words)
            params = {key: _value(spaces[key], texts[key]) for key in spaces}
            search.add_trial(
                optuna.trial.create_trial(params=params, distributions=spaces, value=trial.value)
            )
    asked = search.ask(spaces)
    return [f"{key}={_text(asked.params[key], spaces[key])}" for key in spaces]


def distribution(override: Override) -> Any:
    """What Optuna draws a key from. Raises `UserError` for a sweep that it cannot draw from."""
    import optuna.distributions as of

    value: Any = override.value()
    word = override.input_line
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
            if all(isinstance(each, int) for each in (start, stop, step)):
                last = start + (stop - start - 1) // step * step  # Hydra leaves out the stop
                return of.IntDistribution(start, last, step=step)
            return of.FloatDistribution(float(start), float(stop), step=float(step))
        return of.CategoricalDistribution([str(each) for each in override.sweep_iterator()])
    except ValueError as error:
        raise UserError(f"{word!r} cannot be searched: {error}") from None


def table(study: Study, trials: int, path: Path) -> str:
    """Every trial, the best first."""
    order = {"complete": 0, "pruned": 1, "failed": 2, "running": 3}
    ranked = sorted(
        study.trials[:trials], key=lambda trial: (order[trial.state], trial.value or 0.0)
    )
    lines = [f"{path}: {len(ranked)} trials, the best first"]
    for trial in ranked:
        value = "" if trial.value is None else f"{trial.value:.4f}"
        reason = f"  ({trial.reason})" if trial.reason else ""
        words = " ".join(trial.words)
        lines.append(f"  trial-{trial.number:<4} {trial.state:<9}{value:>9}  {words}{reason}")
    return "\n".join(lines)


def _override(key: str, text: str) -> Override:
    override = parsed(f"{key}={text}")
    assert override is not None, "it was parsed before"
    return override


def _first(key: str, text: str) -> str:
    """A value that the key can have, to check the line with."""
    space = distribution(_override(key, text))
    return str(space.choices[0]) if hasattr(space, "choices") else _text(space.low, space)


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
    if not text.isdecimal() or not (key.endswith("seed") or int(text)):
        raise UserError(f"{key}={text}: expected a whole number")
    return int(text)


def _path(conf: TrainConf) -> Path:
    return Path(conf.runs_dir, str(conf.group), "study.json")


def _ended_early(summary: Path) -> str | None:
    try:
        reason = read_object(summary).get("ended_early")
    except (Missing, Unreadable):
        return None
    return reason if isinstance(reason, str) else None
