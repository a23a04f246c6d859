"""The scaling study of a group of trainings: its families, their laws, and how they compare.

A family is a model with its options. Its curve is the loss of the law at a training compute C:
directly for a law of C, otherwise at the best division of C between parameters and tokens within
the sizes and budgets trained: where a law is flat, its optimum outside them is undetermined. Only
beyond the largest compute, where the curve is extrapolated, may they grow.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import UserError
from core.files import recorded_digest
from core.interval import Interval
from models.contract import TRAINING_FACTOR
from models.formats.run_checkpoints import FOLDER
from probes.analysis.bootstrap import Array
from probes.analysis.estimators import LEVELS, interval_of
from probes.analysis.scaling_laws import Coefficients, Law, Trial, fit
from probes.rows import label
from probes.training_summaries import was_pruned

FEWEST = 3  # amounts of compute that make a study of a model's trainings
BEYOND = 10.0  # how far past the measured compute a curve is extrapolated
CANDIDATES = 80  # sizes among which the best for a compute is looked for


@dataclass(frozen=True)
class Family:
    """The trainings of one model, by growing compute, and the law they follow."""

    label: str
    trials: tuple[Trial, ...]
    law: Law | None
    model: str
    recurrent: bool
    title: str
    """Its name inside a sentence, without options."""

    @property
    def span(self) -> tuple[float, float]:
        """Smallest and largest compute of a training, operations."""
        return self.trials[0].flops, self.trials[-1].flops

    def curve(self, compute: Array) -> tuple[Array, Array]:
        """Losses `[points]` at each `compute`, and those of all draws `[draws, points]`."""
        assert self.law is not None
        return self._losses(self.law.best, compute)[0], self._losses(self.law.drawn, compute)

    def _losses(self, coefficients: Coefficients, compute: Array) -> Array:
        assert self.law is not None
        if self.law.by_compute:
            return coefficients.loss(compute[None] / self.law.units[0])
        sizes, tokens = self._divisions(compute)
        ratios = np.stack([sizes / self.law.units[0], tokens / self.law.units[1]])
        best = [coefficients.loss(ratios[:, place]).min(axis=1) for place in range(len(compute))]
        return np.stack(best, axis=1)

    def _divisions(self, compute: Array) -> tuple[Array, Array]:
        """Parameters and tokens `[points, CANDIDATES]` that cost `compute`, within those trained.

        Beyond the largest compute either may grow as much as the compute does.
        """
        cost_of = {trial.parameters: trial.flops / trial.tokens for trial in self.trials}
        sizes, costs = (np.log(column) for column in zip(*sorted(cost_of.items()), strict=True))
        far = np.log(100 * BEYOND)  # larger models cost in proportion to their size
        sizes, costs = np.append(sizes, sizes[-1] + far), np.append(costs, costs[-1] + far)
        tokens = np.log([trial.tokens for trial in self.trials])
        spent = np.log(compute)
        room = np.maximum(spent - np.log(self.span[1]), 0.0)
        largest = np.interp(spent - tokens.min(), costs, sizes)
        largest = np.minimum(largest, sizes[-2] + room)
        smallest = np.interp(spent - tokens.max() - room, costs, sizes)
        share = np.linspace(0, 1, CANDIDATES)
        chosen = smallest[:, None] + (largest - smallest)[:, None] * share
        return np.exp(chosen), np.exp(spent[:, None] - np.interp(chosen, sizes, costs))

    def exponent(self, low: float, high: float) -> Interval | None:
        """-d log L / d log C between two amounts of compute; None without a law."""
        if self.law is None:
            return None
        best, drawn = self.curve(np.array([low, high]))
        width = np.log(high / low)
        return interval_of(
            np.log(best[0] / best[1]) / width, np.log(drawn[:, 0] / drawn[:, 1]) / width
        )


@dataclass(frozen=True)
class Comparison:
    """Two families at equal training compute, within what was measured of both."""

    recurrent: Family
    attention: Family
    compute: tuple[float, ...]
    """Smallest, middle (geometric) and largest compute that both were trained with."""
    differences: tuple[Interval, ...]
    """Loss of the recurrent one minus that of the other, nats per token, at each compute."""
    saving: Interval
    """Compute the recurrent one needs, relative to the other, for the loss that the other reaches
    at the largest common compute; no value where no compute that was measured reaches it."""


@dataclass(frozen=True)
class Spending:
    """Training compute of a whole study whose trainings share steps, operations."""

    lineages: float
    """Sum over its points of all that led to each: what they would cost one by one."""
    computed: float
    """What was really computed for them, shared steps once."""

    @property
    def saving(self) -> float:
        """How many times less that is."""
        return self.lineages / self.computed


@dataclass(frozen=True)
class Study:
    """Everything the report shows of a scaling study."""

    families: tuple[Family, ...]
    comparisons: tuple[Comparison, ...]
    spending: Spending | None = None
    """Where its trainings share steps."""


def family_of(training: dict[str, Any]) -> str:
    return label(training["model"], training.get("options", {}))


def swept(trainings: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Trainings of models that were trained with several amounts of compute.

    Those of before the summary knew its compute do not count, nor those that were pruned: what
    those end with says how they were chosen, not what their compute gives. Nor does a trunk: a
    training that others here have left, and whose rate was still at its peak in the last step; nor
    a fine-tuning, of which most weights were trained elsewhere.
    """
    trainings = list(trainings)
    left = {id(origin) for origin in origins(trainings) if isinstance(origin, dict)}
    by_family: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for run in trainings:
        is_trunk = run.get("last_rate") == 1 and id(run) in left
        is_tuned = bool(run.get("spared_flops"))
        if run.get("forward_flops") and not was_pruned(run) and not is_trunk and not is_tuned:
            by_family[family_of(run)].append(run)
    several = [
        runs for runs in by_family.values() if len({run["forward_flops"] for run in runs}) >= FEWEST
    ]
    return [run for runs in several for run in runs]


def origins(trainings: Sequence[dict[str, Any]]) -> list[dict[str, Any] | str | None]:
    """For each training the one of them whose checkpoint it has begun with.

    The recorded path of that checkpoint says whose it is or, where folders were moved since, its
    recorded digest. Where the training is not among these it is the path of its folder, and None
    for a training that has begun from nothing.
    """
    by_folder = {str(run["folder"]): run for run in trainings if "folder" in run}
    by_digest: dict[str, dict[str, Any]] = {}
    found: list[dict[str, Any] | str | None] = []
    for run in trainings:
        parent = run.get("parent") or {}
        if not isinstance(parent.get("path"), str):
            found.append(None)
            continue
        folder = str(Path(parent["path"]).parent.parent)
        with suppress(ValueError):  # of characters that no path has
            folder = os.path.realpath(folder)
        origin = by_folder.get(folder)
        if origin is None:
            by_digest = by_digest or {
                digest: run
                for folder, run in by_folder.items()
                for path in sorted(Path(folder, FOLDER).glob("step-*.ckpt"))
                if (digest := recorded_digest(path))
            }
            origin = by_digest.get(str(parent.get("sha256")))
        found.append(folder if origin is None else origin)
    return found


def spending(trainings: Iterable[dict[str, Any]]) -> Spending | None:
    """What the points of the study of these summaries cost; None if they share nothing.

    Each training counts with what it has computed itself, and so does every one that it comes from.
    Of one whose summary is not here, the longest part that a training has taken over counts. None
    also where a summary, of an older version, does not say what is its own.
    """
    trainings = list(trainings)
    points = swept(trainings)
    origin_of = {id(run): origin for run, origin in zip(trainings, origins(trainings), strict=True)}
    todo, counted, absent = [*points], set[int](), dict[str, int]()
    computed = 0
    while todo:
        run = todo.pop()
        if id(run) in counted:
            continue
        counted.add(id(run))
        origin, whole = origin_of[id(run)], run.get("forward_flops") or 0
        own = run.get("own_forward_flops", None if origin else whole)
        if own is None:
            return None
        computed += own
        if isinstance(origin, dict) and origin is not run:
            todo.append(origin)
        elif origin is not None:  # or a branch of itself, whose first steps are not its own
            place = origin if isinstance(origin, str) else str(run["folder"])
            absent[place] = max(absent.get(place, 0), whole - own)
    computed += sum(absent.values())
    lineages = sum(run["forward_flops"] for run in points)
    if not 0 < computed < lineages:
        return None
    return Spending(float(TRAINING_FACTOR * lineages), float(TRAINING_FACTOR * computed))


def study(trainings: Iterable[dict[str, Any]], seed: int = 0) -> Study | None:
    """The study of these summaries; None if none has `FEWEST` amounts of compute for a model."""
    trainings = list(trainings)
    by_family: dict[str, list[Trial]] = defaultdict(list)
    of_family: dict[str, dict[str, Any]] = {}
    for run in swept(trainings):
        if run.get("recurrent") is None:
            raise UserError(
                f"the training {run['name']} does not say whether {run['model']} is "
                "recurrent, and its class is not here to ask; bring back its file in models/, or "
                "train it again"
            )
        of_family[family_of(run)] = run
        trial = Trial(
            str(run["name"]),
            str(run["size"]),
            run["parameters"],
            run["tokens"],
            float(TRAINING_FACTOR * run["forward_flops"]),  # large integers break NumPy
            run["val_loss"],
        )
        by_family[family_of(run)].append(trial)
    if not by_family:
        return None
    families = []
    for place, (name, unsorted) in enumerate(sorted(by_family.items())):
        trials = tuple(sorted(unsorted, key=lambda trial: (trial.flops, trial.name)))
        run = of_family[name]
        said = run["model"], run["recurrent"], run["title"] or run["model"]
        families.append(Family(name, trials, fit(trials, seed=seed + place), *said))
    families.sort(key=lambda family: not family.recurrent)
    comparisons = []
    for mine, other in product(families, families):
        if mine.recurrent and not other.recurrent and mine.law and other.law:
            low, high = max(mine.span[0], other.span[0]), min(mine.span[1], other.span[1])
            if low < high:
                comparisons.append(compare(mine, other, low, high))
    return Study(tuple(families), tuple(comparisons), spending(trainings))


def compare(mine: Family, other: Family, low: float, high: float) -> Comparison:
    """The two curves between two amounts of compute."""
    compute = np.array([low, np.sqrt(low * high), high])
    best, drawn = mine.curve(compute)
    best_other, drawn_other = other.curve(compute)
    differences = [
        interval_of(best[at] - best_other[at], drawn[:, at] - drawn_other[:, at])
        for at in range(len(compute))
    ]
    # What the recurrent one needs for the loss that the other reaches at `high`.
    grid = np.geomspace(*mine.span, 60)
    reached, drawn_reached = mine.curve(grid)
    goal, goals = other.curve(np.array([high]))
    value = _needed(grid, reached[None], goal)[0] / high
    shares = _needed(grid, drawn_reached, goals[:, 0]) / high
    # Whole draws: between a number and infinity there is no percentile.
    ends = np.percentile(shares, LEVELS, method="nearest")
    saving = Interval(*(float(share) if share > 0 else None for share in (value, *ends)))
    return Comparison(mine, other, tuple(compute), tuple(differences), saving)


def _needed(grid: Array, curves: Array, goals: Array) -> Array:
    """Compute at which each falling curve reaches its goal; 0 or infinity outside the grid."""
    reached = [
        np.exp(np.interp(-goal, -curve, np.log(grid)))
        for curve, goal in zip(curves, goals, strict=True)
    ]
    needed = np.where(goals < curves[:, -1], np.inf, reached)
    return np.where(goals > curves[:, 0], 0.0, needed)
