"""Searches whose results ship with Crossover: `conf/searches/NAME.json`, which `searched=` names.

All models of a record were searched alike: the same values of one key, with the same seeds and
steps. `losses` are the final validation losses, in nats per token, in the order of `values`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from conf.schema import FOLDER
from core.parsing import Unreadable, read_object
from probes.training_runs import TrainingRun


@dataclass(frozen=True)
class SearchRecord:
    """One search, as its file has it."""

    name: str
    command: str
    commit: str
    date: str
    size: str
    steps: int
    seeds: tuple[int, ...]
    key: str
    values: tuple[float, ...]
    losses: dict[str, tuple[float, ...]]

    def best(self, label: str) -> float | None:
        """The value with the lowest loss of a model with its options; None if it took no part."""
        losses = self.losses.get(label)
        return None if losses is None else self.values[losses.index(min(losses))]


@cache
def search_record(name: str) -> SearchRecord | None:
    """The record of that name, if there is one."""
    if not name.isidentifier():
        return None
    try:
        content = read_object(FOLDER / "searches" / f"{name}.json")
    except Unreadable:
        return None
    texts = {key: str(content[key]) for key in ("command", "commit", "date", "size", "key")}
    return SearchRecord(
        name=name,
        **texts,
        steps=int(content["steps"]),
        seeds=tuple(content["seeds"]),
        values=tuple(content["values"]),
        losses={label: tuple(numbers) for label, numbers in content["losses"].items()},
    )


def record_of(runs: Sequence[TrainingRun]) -> SearchRecord | None:
    """The record by which these trainings of one model chose their setting.

    None unless all name it, are of its size, and have the value that was best for their model.
    """
    names = {str(run.config.get("searched")) for run in runs}
    found = search_record(names.pop()) if len(names) == 1 else None
    if found is None:
        return None
    follows = [
        run.size == found.size
        and (best := found.best(run.label)) is not None
        and run.config.get(found.key) == best
        for run in runs
    ]
    return found if follows and all(follows) else None
