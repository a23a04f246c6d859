"""What an experiment's trainings show: of each model the best searched setting, and the claims."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median
from typing import Literal

from core.errors import shown
from probes.training_runs import TrainingRun, as_figure

ACCURACY, LOSS, BITS = "val_accuracy", "val_loss", "val_bits_per_byte"
SIZE_TOLERANCE = 0.01  # relative difference of parameters within which models are matched


def figure(run: TrainingRun, key: str) -> float | None:
    """A figure of a finished training: `val_accuracy`, or `x2/accuracy` of a named validation."""
    if "/" not in key:
        return run.figure(key)
    name, _, field = key.partition("/")
    found = (run.summary or {}).get("validation")
    named = found.get(name) if isinstance(found, dict) else None
    return as_figure(named.get(field)) if isinstance(named, dict) else None


@dataclass(frozen=True)
class Trial:
    """One rate of one model, with all its seeds."""

    rate: float
    runs: tuple[TrainingRun, ...]

    def values(self, key: str) -> tuple[float, ...]:
        """That figure of every seed that has it."""
        found = (figure(run, key) for run in self.runs)
        return tuple(value for value in found if value is not None)


@dataclass(frozen=True)
class Contestant:
    """A model of an experiment, with all that was tried."""

    label: str
    title: str
    recurrent: bool | None
    trials: tuple[Trial, ...]
    """By rising rate."""
    best: Trial
    """The rate with the best mean of the experiment's figure."""
    unfinished: int

    @property
    def parameters(self) -> float | None:
        return max((run.figure("parameters") or 0.0 for run in self.best.runs), default=0) or None

    @property
    def runs(self) -> int:
        """Number of trainings that count: those of all rates and seeds."""
        return sum(len(trial.runs) for trial in self.trials)

    def value(self, key: str) -> float | None:
        """The median over the seeds at the best rate."""
        values = self.best.values(key)
        return median(values) if values else None


Kind = Literal["above", "below", "order"]


@dataclass(frozen=True)
class Claim:
    """What should come out. `order`: each of `models` has a better figure than the next one."""

    kind: Kind
    models: tuple[str, ...]
    figure: str = ACCURACY
    bound: float = 0.0
    """What `above` and `below` compare with; how much worse than the next one `order` allows."""

    @property
    def words(self) -> str:
        """The claim as a phrase."""
        share = self.figure.endswith("accuracy")
        bound = f"{100 * self.bound:g} %" if share else f"{self.bound:g}"
        if self.kind == "order":
            slack = f", or behind by less than {bound}" if self.bound else ""
            return f"{' > '.join(self.models)}{self._place}{slack}"
        return f"{' and '.join(self.models)} {self.kind} {bound}{self._place}"

    @property
    def _place(self) -> str:
        return f" at {self.figure.partition('/')[0]}" if "/" in self.figure else ""

    def holds(self, contestants: Sequence[Contestant]) -> bool | None:
        """Whether it came out; None where a model has no figure yet."""
        by_label = {one.label: one for one in contestants}
        values = [
            by_label[label].value(self.figure) if label in by_label else None
            for label in self.models
        ]
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            return None
        if self.kind == "above":
            return all(value > self.bound for value in known)
        if self.kind == "below":
            return all(value < self.bound for value in known)
        sign = -1 if lower_is_better(self.figure) else 1
        return all(sign * (one - after) > -self.bound for one, after in pairwise(known))


def lower_is_better(key: str) -> bool:
    """Whether less of a figure is better: losses and bits, and not accuracies."""
    return not key.endswith(("accuracy", "exact_match"))


@dataclass(frozen=True)
class Outcome:
    """All that is known of an experiment."""

    contestants: tuple[Contestant, ...]
    verdicts: tuple[tuple[Claim, bool | None], ...]
    finished: int
    planned: int
    """Trainings that the recipe names."""

    @property
    def verdict(self) -> str:
        """One phrase: reached, not reached, or what is left to do."""
        answers = [holds for _, holds in self.verdicts]
        left = self.planned - self.finished
        if not self.finished:
            return "not run"
        if None in answers:
            return f"undecided, {left} of {self.planned} trainings to go"
        said = "reached" if all(answers) else "not reached"
        return f"{said} so far, {left} of {self.planned} trainings to go" if left > 0 else said

    @property
    def spread(self) -> float | None:
        """The largest relative difference of parameters between the models."""
        counts = [one.parameters for one in self.contestants if one.parameters]
        return max(counts) / min(counts) - 1 if counts else None

    @property
    def is_equal_search(self) -> bool:
        """Whether every model has finished trainings at the same rates with the same seeds."""
        tried = {
            tuple((trial.rate, tuple(sorted(run.seed or 0 for run in trial.runs))) for trial in of)
            for of in (one.trials for one in self.contestants)
        }
        return len(tried) < 2


def outcome(
    runs: Sequence[TrainingRun], claims: Sequence[Claim], main: str, planned: int
) -> Outcome:
    """Sort an experiment's trainings. `main` is the figure by which the best rate is chosen."""
    by_model: dict[str, list[TrainingRun]] = defaultdict(list)
    for run in runs:
        by_model[run.label].append(run)
    contestants = []
    for label, members in by_model.items():
        done = [
            (run, rate)
            for run in members
            if run.is_complete
            and figure(run, main) is not None
            and (rate := _rate(run)) is not None
        ]
        if not done:
            continue
        rates: dict[float, list[TrainingRun]] = defaultdict(list)
        for run, rate in done:
            rates[rate].append(run)
        trials = [Trial(rate, tuple(rates[rate])) for rate in sorted(rates)]
        sign = -1 if lower_is_better(main) else 1
        best = max(trials, key=lambda trial: sign * fmean(trial.values(main)))
        first, _ = done[0]
        contestants.append(
            Contestant(
                label, first.title, first.recurrent, tuple(trials), best, len(members) - len(done)
            )
        )
    sign = 1 if lower_is_better(main) else -1
    contestants.sort(key=lambda one: (sign * (one.value(main) or 0.0), one.label))
    finished = sum(one.runs for one in contestants)
    verdicts = tuple((claim, claim.holds(contestants)) for claim in claims)
    return Outcome(tuple(contestants), verdicts, finished, max(planned, finished))


def left_out(run: TrainingRun) -> str:
    """Why a finished training is not shown, or which of its rows are not; empty for one that is."""
    if run.is_complete and _rate(run) is None:
        said = shown(run.config["optim.lr"])
        return f"{run.path / 'config.yaml'}: left out, optim.lr={said} is no rate"
    return run.damage


def _rate(run: TrainingRun) -> float | None:
    """Its learning rate, by which trials are told apart; 0 where nothing is known."""
    return as_figure(run.config.get("optim.lr", 0.0))
