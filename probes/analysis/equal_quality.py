"""The crossover at equal quality: fitted laws of loss, joined with costs at several sizes.

Equal size is not equal quality. For a loss that both families reach, each gets the size that
reaches it most cheaply on this machine, and their costs are compared over context lengths:

* decoding: trained with the largest budget of tokens that both were trained with, the cheapest size
  whose loss is not above the goal;
* training: any division between size and tokens that reaches the goal; what the whole training
  takes, tokens times the time of one at that context length.

Losses are those of `A / N^α + B / D^β` with or without a floor, fitted to the trainings of a
scaling study; costs lie on straight lines of log cost over log size between the sizes measured, and
neither is extrapolated. An interval carries both: every draw is a draw of the two laws and of the
costs, whose relative error is that of their processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from core.interval import Interval
from probes.analysis.bootstrap import Array, centre
from probes.analysis.crossovers import Curve
from probes.analysis.estimators import LEVELS
from probes.analysis.scaling_laws import Coefficients
from probes.analysis.scaling_study import Family, Study
from probes.rows import label

CANDIDATES = 240
"""Sizes among which the cheapest is looked for."""
SHARES = (0.9, 0.5, 0.1)
"""Where the goals lie between the lowest and the highest loss that both families reach."""
MEASURES = {"train": "a whole training", "decode": "a token"}
"""Measures that are compared, and what their cost is of."""


@dataclass(frozen=True)
class Costs:
    """Seconds per token of one family, by size and context length."""

    sizes: Array
    """`[S]` parameters, rising; two or more."""
    lengths: Array
    """`[T]` tokens of context, rising; measured at every size."""
    seconds: Array
    """`[S, T]`."""
    errors: Array
    """`[S, T]`, standard errors of their logarithms; 0 where one process measured it."""

    def at(self, sizes: Array, noise: Array | None = None) -> Array:
        """Seconds at other sizes `[N]`, of draws `[draws, S, T]` of the noise: `[draws, N, T]`."""
        logs = np.log(self.seconds)[None] + (0 if noise is None else noise * self.errors)
        place = np.interp(np.log(sizes), np.log(self.sizes), np.arange(len(self.sizes)))
        below = np.minimum(place.astype(int), len(self.sizes) - 2)
        share = (place - below)[None, :, None]
        between: Array = np.exp(logs[:, below] * (1 - share) + logs[:, below + 1] * share)
        return between


@dataclass(frozen=True)
class Level:
    """Two families at one loss, in one measure."""

    measure: str
    recurrent: str
    attention: str
    loss: float
    """Nats per token that both reach."""
    tokens: float | None
    """Training tokens of both; None where each has those that it needs."""
    lengths: tuple[int, ...]
    sizes: tuple[tuple[Interval, Interval], ...]
    """By length, the parameters of the cheapest of each: recurrent, attention."""
    seconds: tuple[tuple[Interval, Interval], ...]
    """By length, what each takes: of a token, or of a whole training."""
    ratios: tuple[Interval, ...]
    """By length, the recurrent one's over the other's."""
    crossover: Interval
    """Tokens of context from which on the recurrent one is the cheaper; no value where it is so at
    no length or at all of them. An end without a number lies outside the lengths measured."""
    kind: str
    """`crosses`, `always` or `never`; `undecided` where draws agree on none of the three."""


def costs_of(family: Family, curves: Sequence[Curve], per_sequence: bool) -> Costs | None:
    """The costs of a family's sizes at the lengths that all of them have; None if fewer than two
    sizes or lengths were measured."""
    found: dict[int, Curve] = {}
    for one in curves:
        size, row = one.series.parameters, one.series.rows[0]
        if size and label(row.model, row.options) == family.label:
            found[size] = one
    if len(found) < 2:
        return None
    sizes = sorted(found)
    lengths = sorted(set.intersection(*(set(found[size].measured) for size in sizes)))
    if len(lengths) < 2:
        return None
    seconds, errors = np.empty((2, len(sizes), len(lengths)))
    for (place, size), (column, length) in product(enumerate(sizes), enumerate(lengths)):
        point = found[size].measured[length]
        each = np.log([centre({number: values}) for number, values in point.processes.items()])
        seconds[place, column] = point.value / (length if per_sequence else 1)
        errors[place, column] = each.std(ddof=1) / np.sqrt(len(each)) if len(each) > 1 else 0.0
    return Costs(np.array(sizes, float), np.array(lengths, float), seconds, errors)


def levels(study: Study, curves: dict[str, list[Curve]], seed: int = 0) -> list[Level]:
    """Every pair of families at `SHARES` of the losses that both reach, in every measure that was
    measured at two sizes of both, by falling loss."""
    found = []
    for mine, other in product(study.families, study.families):
        if not (mine.recurrent and not other.recurrent and _has_sizes(mine) and _has_sizes(other)):
            continue
        for measure in MEASURES:
            costs = [
                costs_of(family, curves.get(measure, ()), measure == "train")
                for family in (mine, other)
            ]
            if costs[0] is not None and costs[1] is not None:
                found += _compare(mine, other, (costs[0], costs[1]), measure, seed)
    return found


def _has_sizes(family: Family) -> bool:
    return family.law is not None and not family.law.by_compute


@dataclass(frozen=True)
class _Side:
    """A family with the sizes and tokens within which it is known."""

    family: Family
    costs: Costs
    sizes: Array
    """`[N]`, rising, within those trained and those measured."""
    tokens: tuple[float, float]

    def losses(self, coefficients: Coefficients, tokens: float) -> Array:
        """`[draws, N]` after so many tokens."""
        units = self._units()
        return coefficients.loss(
            np.stack([self.sizes / units[0], np.full_like(self.sizes, tokens / units[1])])
        )

    def needed(self, coefficients: Coefficients, goal: float) -> Array:
        """Tokens `[draws, N]` that reach a loss; infinite beyond those trained."""
        size_part = coefficients.loss(
            np.stack([self.sizes / self._units()[0], np.full_like(self.sizes, np.inf)])
        )
        left = goal - size_part
        with np.errstate(all="ignore"):
            scale, exponent = coefficients.scales[:, 1:2], coefficients.exponents[:, 1:2]
            tokens = self._units()[1] * (scale / left) ** (1 / exponent)
        outside = ~((left > 0) & (tokens <= self.tokens[1] * (1 + 1e-9)))
        return np.where(outside, np.inf, np.maximum(tokens, self.tokens[0]))

    def cheapest(
        self, coefficients: Coefficients, goal: float, tokens: float | None, noise: Array | None
    ) -> tuple[Array, Array]:
        """The least cost `[draws, T]` of a size that reaches the goal, and that size."""
        seconds = self.costs.at(self.sizes, noise)
        if tokens is None:
            total = seconds * self.needed(coefficients, goal)[..., None]
        else:
            reaches = self.losses(coefficients, tokens) <= goal
            total = np.where(reaches[..., None], seconds, np.inf)
        best = total.argmin(axis=1)  # [draws, T]
        least = np.take_along_axis(total, best[:, None], axis=1)[:, 0]
        return least, np.where(np.isfinite(least), self.sizes[best], np.nan)

    def _units(self) -> Array:
        assert self.family.law is not None
        return self.family.law.units


def _side(family: Family, costs: Costs) -> _Side | None:
    trained = [trial.parameters for trial in family.trials]
    low, high = max(costs.sizes[0], min(trained)), min(costs.sizes[-1], max(trained))
    tokens = [trial.tokens for trial in family.trials]
    if low >= high:
        return None
    return _Side(family, costs, np.geomspace(low, high, CANDIDATES), (min(tokens), max(tokens)))


def _compare(
    mine: Family, other: Family, costs: tuple[Costs, Costs], measure: str, seed: int
) -> list[Level]:
    shared = np.intersect1d(costs[0].lengths, costs[1].lengths)
    kept = [_at_lengths(one, shared) for one in costs]
    sides = [_side(family, one) for family, one in zip((mine, other), kept, strict=True)]
    if len(shared) < 2 or sides[0] is None or sides[1] is None:
        return []
    both = (sides[0], sides[1])
    budget = None if measure == "train" else min(side.tokens[1] for side in both)
    lowest, highest = [], []
    for side in both:
        assert side.family.law is not None
        ends = [
            side.losses(side.family.law.best, tokens)[0]
            for tokens in (side.tokens if budget is None else (budget, budget))
        ]
        lowest.append(ends[1].min())
        highest.append(ends[0].max())
    low, high = max(lowest), min(highest)
    if low >= high:
        return []
    return [_level(both, measure, low + share * (high - low), budget, seed) for share in SHARES]


def _at_lengths(costs: Costs, lengths: Array) -> Costs:
    chosen = np.isin(costs.lengths, lengths)
    return Costs(costs.sizes, lengths, costs.seconds[:, chosen], costs.errors[:, chosen])


def _level(
    both: tuple[_Side, _Side], measure: str, goal: float, tokens: float | None, seed: int
) -> Level:
    best, sizes, drawn, drawn_sizes = [], [], [], []
    rng = np.random.default_rng(seed)
    for side in both:
        law = side.family.law
        assert law is not None
        least, size = side.cheapest(law.best, goal, tokens, None)
        best.append(least[0])
        sizes.append(size[0])
        noise = rng.standard_normal((len(law.drawn.floor), *side.costs.seconds.shape))
        least, size = side.cheapest(law.drawn, goal, tokens, noise)
        drawn.append(least)
        drawn_sizes.append(size)
    lengths = both[0].costs.lengths
    with np.errstate(all="ignore"):
        ratio, ratios = best[0] / best[1], drawn[0] / drawn[1]
    known = np.flatnonzero(~np.isnan(ratios).any(axis=1))  # where one of them reaches the goal
    ratios = ratios[known]
    places = np.array([crossing(lengths, one) for one in ratios])
    crossover, kind = _decided(crossing(lengths, ratio), places)
    columns = range(len(lengths))
    return Level(
        measure,
        both[0].family.label,
        both[1].family.label,
        float(goal),
        tokens,
        tuple(int(length) for length in lengths),
        tuple(_pair(sizes, drawn_sizes, known, at) for at in columns),
        tuple(_pair(best, drawn, known, at) for at in columns),
        tuple(_interval(float(ratio[at]), ratios[:, at]) for at in columns),
        crossover,
        kind,
    )


def crossing(lengths: Array, ratios: Array) -> float:
    """From which length on ratios `[T]` stay below 1: 0 if all do, infinite if the last does not.

    Between two lengths the logarithm of the ratio is a straight line over that of the length.
    """
    above = np.flatnonzero(ratios >= 1)
    if not len(above):
        return 0.0
    last = int(above[-1])
    if last == len(ratios) - 1:
        return float("inf")
    with np.errstate(all="ignore"):
        logs = np.log(ratios[last : last + 2])
    share = logs[0] / (logs[0] - logs[1]) if np.isfinite(logs).all() else 1.0
    ends = np.log(lengths[last : last + 2])
    return float(np.exp(ends[0] + share * (ends[1] - ends[0])))


def _decided(value: float, places: Array) -> tuple[Interval, str]:
    """The crossover with its interval, and its kind."""
    low, high = np.percentile(places, LEVELS, method="nearest") if len(places) else (0.0, np.inf)
    if high == 0:
        return Interval(), "always"
    if np.isinf(low):
        return Interval(), "never"
    inside = [float(one) if 0 < one < np.inf else None for one in (value, low, high)]
    return Interval(*inside), "crosses" if low > 0 and high < np.inf else "undecided"


def _pair(
    values: Sequence[Array], drawn: Sequence[Array], known: Any, at: int
) -> tuple[Interval, Interval]:
    one, two = (
        _interval(float(value[at]), draws[known, at])
        for value, draws in zip(values, drawn, strict=True)
    )
    return one, two


def _interval(value: float, drawn: Array) -> Interval:
    """A value with its interval; ends without a number where a draw has none."""
    if not len(drawn):
        return Interval(value)
    ends = np.percentile(np.nan_to_num(drawn, nan=np.inf), LEVELS, method="nearest")
    return Interval(value, *map(float, ends))
