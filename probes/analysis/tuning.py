"""Who was searched how: a comparison of two models is one only if both had the same search."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from core.units import counted
from probes.analysis.search_record import SearchRecord, record_of
from probes.training_runs import TrainingRun

SHOWN = 8  # values of a key that a description lists


@dataclass(frozen=True)
class Search:
    """The settings that were tried for one model."""

    tried: dict[str, tuple[Any, ...]]
    """The values of each searched key, in order."""
    assignments: frozenset[str]
    """Every setting with its seed, as JSON; runs that did not finish count too."""
    trials: int
    """Different settings."""
    runs: int
    seeds: tuple[int | None, ...]
    study: str
    """What Optuna searched, as JSON; empty for a grid."""
    record: SearchRecord | None = None
    """The search elsewhere that chose the one setting."""

    @property
    def is_none(self) -> bool:
        """Whether only one setting was tried."""
        return self.trials <= 1

    def plain(self) -> dict[str, Any]:
        """The search as JSON values."""
        return {
            "tried": {key: list(values) for key, values in self.tried.items()},
            "trials": self.trials,
            "runs": self.runs,
            "seeds": list(self.seeds),
            "study": json.loads(self.study) if self.study else None,
            "record": self.record and self.record.name,
        }


def search_of(
    runs: Sequence[TrainingRun], configs: Sequence[dict[str, Any]], keys: Sequence[str]
) -> Search:
    """What was tried in these runs of one model, whose keys have the values in `configs`; `keys`
    are those searched for any model."""
    settings = [{key: config.get(key) for key in keys} for config in configs]
    tried = {
        key: tuple(
            json.loads(text) for text in sorted({_text(one[key]) for one in settings}, key=_order)
        )
        for key in keys
    }
    studies = {_text(_searched(run.study)) for run in runs if run.study}
    return Search(
        tried,
        frozenset(_text([one, run.seed]) for one, run in zip(settings, runs, strict=True)),
        len({_text(one) for one in settings}),
        len(runs),
        tuple(sorted({run.seed for run in runs}, key=lambda seed: (seed is None, seed or 0))),
        "" if not studies else sorted(studies)[0] if len(studies) == 1 else _text(sorted(studies)),
        record_of(runs) if settings.count(settings[0]) == len(settings) else None,
    )


def same(first: Search, second: Search) -> bool:
    """Whether both were searched alike: the same grid, or as many trials of the same space, each
    with the same seeds; or one setting of each, which one and the same recorded search chose."""
    if first.seeds != second.seeds:
        return False
    if first.record is not None and first.record == second.record:
        return _but(first) == _but(second)
    if first.study and first.study == second.study:
        return (first.trials, first.runs) == (second.trials, second.runs)
    return not (first.study or second.study) and first.assignments == second.assignments


def _but(search: Search) -> dict[str, tuple[Any, ...]]:
    """The one setting, without the key that the recorded search chose."""
    assert search.record is not None
    return {key: values for key, values in search.tried.items() if key != search.record.key}


def chosen(record: SearchRecord) -> str:
    """`5 settings of optim.lr (0.00035, ...), seed 0, of 160 steps`: what a record tried."""
    count, seeds = len(record.values), ", ".join(map(str, record.seeds))
    return (
        f"{count} settings of {record.key} {_values(record.values)}, "
        f"seed{'' if len(record.seeds) == 1 else 's'} {seeds}, with {record.steps} steps"
    )


def describe(search: Search) -> str:
    """`5 trainings of 5 settings of optim.lr (0.00035, 0.0007, ...), seed 0`."""
    varied = {key: values for key, values in search.tried.items() if len(values) > 1}
    over = "; ".join(f"{key} {_values(values)}" for key, values in varied.items())
    fixed = [f"{key} {shown(values[0])}" for key, values in search.tried.items()]
    one = f"one setting ({', '.join(fixed)})" if 0 < len(fixed) <= SHOWN else "one setting"
    many = one if search.is_none else f"{search.trials} settings"
    by = " chosen by Optuna" if search.study else ""
    seeds = [str(seed) for seed in search.seeds if seed is not None]
    with_seeds = f", seed{'' if len(seeds) == 1 else 's'} {', '.join(seeds)}" if seeds else ""
    over = f" of {over}" if over else ""
    said = f"{counted(search.runs, 'training')} of {many}{by}{over}{with_seeds}"
    return f"{said}, chosen among {chosen(search.record)}" if search.record else said


def varying(runs: Iterable[dict[str, Any]]) -> list[str]:
    """Keys whose values differ between these settings."""
    values: dict[str, set[str]] = {}
    settings = list(runs)
    for key in sorted({key for setting in settings for key in setting}):
        values[key] = {_text(setting.get(key)) for setting in settings}
    return [key for key, texts in values.items() if len(texts) > 1]


def shown(value: Any) -> str:
    """A value as a person writes it: `0.0028`, `cosine`, `none`."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"{value:g}" if abs(value) < 1e6 else f"{value:,}"
    return value if isinstance(value, str) else _text(value)


def _values(values: Sequence[Any]) -> str:
    texts = [shown(value) for value in values]
    return f"({', '.join(texts)})" if len(texts) <= SHOWN else f"({len(texts)} values)"


def _searched(study: dict[str, Any] | None) -> dict[str, Any]:
    """What of a study says how was searched; that it drew models too is its arms' business."""
    content = study or {}
    space = {key: text for key, text in content["space"].items() if key != "model"}
    return {"space": space, "sampler": content.get("sampler"), "seed": content.get("seed")}


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _order(text: str) -> tuple[bool, float, str]:
    value = json.loads(text)
    is_number = type(value) in (int, float)
    return not is_number, float(value) if is_number else 0.0, text
