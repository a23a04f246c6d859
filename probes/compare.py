"""From rows to findings: curves, who is cheaper where, crossover lengths and slopes.

A *measure* is one quantity against context length, e.g. training time per sequence. For every
measure each arm has a curve, and every recurrent arm is compared with every attention arm.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from math import isnan

import numpy as np

from probes import statistics
from probes.bootstrap import centre
from probes.collect import Arm, Material
from probes.growth import ROUNDING, Growth, growth
from probes.measures import MEASURES, Measure, values_of
from probes.rows import Row
from probes.statistics import PolynomialFit


@dataclass(frozen=True)
class Point:
    """One measured context length of one curve; `processes` is empty unless status is ok."""

    length: int
    status: str
    processes: tuple[tuple[float, ...], ...]
    """The repeats of every process."""
    error: str | None = None

    @property
    def values(self) -> tuple[float, ...]:
        """All repeats of all processes."""
        return tuple(value for repeats in self.processes for value in repeats)

    @property
    def median(self) -> float:
        """Of the medians of the processes."""
        return centre(self.processes)

    @property
    def quartiles(self) -> tuple[float, float]:
        low, high = np.percentile(self.values, [25, 75])
        return float(low), float(high)


@dataclass(frozen=True)
class Curve:
    """The points of one arm, by rising length."""

    arm: Arm
    points: tuple[Point, ...]

    @property
    def measured(self) -> dict[int, Point]:
        return {point.length: point for point in self.points if point.status == "ok"}

    @property
    def failed(self) -> list[Point]:
        return [point for point in self.points if point.status != "ok"]


@dataclass(frozen=True)
class Crossing:
    """A length in tokens at which the cheaper arm changes, and its 95 % bootstrap interval.

    An end of the interval is None where it lies outside the measured lengths; both are None where
    there is no interval (one value per point, or not the last of several crossings).
    """

    length: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Finding:
    """One recurrent arm against one attention arm in one measure.

    `kind` is what the medians say: `crosses` (the recurrent arm is cheaper beyond one length),
    `reverse` (cheaper below one length only), `several` (the order changes more than once),
    `always`, `never`, `equal`, or `missing` (fewer than two lengths measured for both).
    """

    measure: Measure
    recurrent: Curve
    attention: Curve
    kind: str
    crossings: tuple[Crossing, ...] = ()
    stays: statistics.Crossover | None = None
    """Where the recurrent arm becomes the cheaper one for good, if anything was compared."""

    @property
    def note(self) -> str:
        """What the bootstrap adds in words."""
        return self.stays.reason if self.stays else ""

    @property
    def lengths(self) -> list[int]:
        """Lengths measured for both."""
        return sorted(self.recurrent.measured.keys() & self.attention.measured.keys())

    def ratio(self, length: int) -> float:
        """Cost of the recurrent arm over that of the attention arm; below 1 it is cheaper."""
        mine, other = self.recurrent.measured[length], self.attention.measured[length]
        return mine.median / other.median

    @property
    def crossover(self) -> Crossing | None:
        """The length from which the recurrent arm stays cheaper, if there is one."""
        wins_at_the_end = self.crossings and self.ratio(self.lengths[-1]) < 1
        return self.crossings[-1] if wins_at_the_end else None


@dataclass(frozen=True)
class Slope:
    """Exponent p of `cost ~ T^p` over `window`, costs per sequence (or per generated token).

    The interval is None where a point is a single number, as peak memory is.
    """

    value: float
    low: float | None
    high: float | None
    window: tuple[int, int]
    linear: bool
    quadratic: PolynomialFit
    """`a + bT + cT^2` over the same window."""
    growth: Growth | None
    """Which shape fits best, over all lengths measured."""


def curve(arm: Arm, measure: Measure) -> Curve:
    """One point per length; where a process was measured again, the last row counts.

    A point of which one process failed has failed: those that finished are the lucky ones.
    """
    processes: dict[int, dict[int, Row]] = defaultdict(dict)
    for row in arm.rows:
        if (row.probe, row.sweep) == (measure.probe, measure.sweep):
            processes[row.context_length][row.process] = row
    points = []
    for length, found in sorted(processes.items()):
        rows = [found[process] for process in sorted(found)]
        failed = [row for row in rows if row.status != "ok"]
        values = tuple(filter(None, (values_of(row, measure) for row in rows)))
        if failed:
            points.append(Point(length, failed[0].status, (), failed[0].error))
        elif values:
            points.append(Point(length, "ok", values))
    return Curve(arm, tuple(points))


def curves(material: Material, measure: Measure) -> list[Curve]:
    """The curves of all arms that have a point of this measure, failed ones included.

    A measure that is not `always` shown needs a finished point of one of them.
    """
    found = [curve(arm, measure) for arm in material.arms]
    if not measure.always and not any(one.measured for one in found):
        return []
    return [one for one in found if one.points]


def findings(material: Material) -> list[Finding]:
    """Every pair in every measure; all but the always shown ones only where they were probed."""
    return [
        find(curve(recurrent, measure), curve(attention, measure), measure)
        for measure in MEASURES
        if measure.always or curves(material, measure)
        for recurrent, attention in material.pairs
    ]


def find(recurrent: Curve, attention: Curve, measure: Measure) -> Finding:
    """Who is cheaper where."""
    bare = Finding(measure, recurrent, attention, "missing")
    if len(bare.lengths) < 2:
        return bare
    mine = {length: recurrent.measured[length].processes for length in bare.lengths}
    other = {length: attention.measured[length].processes for length in bare.lengths}
    stays = statistics.crossover(mine, other)
    begins, ends = (bare.ratio(bare.lengths[place]) < 1 for place in (0, -1))
    if all(bare.ratio(length) == 1 for length in bare.lengths):
        kind = "equal"
    elif not stays.places:
        kind = "always" if begins else "never"
    elif stays.crossings > 1:
        kind = "several"
    else:
        kind = "reverse" if begins else "crosses"
    crossings = [Crossing(place) for place in stays.places]
    if crossings:
        # The last crossing, whichever way it goes, has a bootstrap interval.
        last = stays if ends else statistics.crossover(other, mine)
        crossings[-1] = Crossing(crossings[-1].length, last.low, last.high)
    return Finding(measure, recurrent, attention, kind, tuple(crossings), stays)


LINEAR = (0.75, 1.25)
"""A wider interval cannot tell linear from attention's mixture of linear and quadratic work."""


def slope(one: Curve, measure: Measure, window: tuple[int, int]) -> Slope | None:
    """The log-log slope over the window, or None with fewer than three lengths inside it.

    `linear` is claimed only when the slope's interval contains 1 and stays inside `LINEAR`, so that
    it tells something, and the interval of c in `a + bT + cT^2` contains 0.
    """
    samples = _samples(one, measure)
    inside = [length for length in samples if window[0] <= length <= window[1]]
    if len(inside) < 3:
        return None
    fitted = statistics.loglog_slope(samples, window)
    quadratic = statistics.polynomial_fit(samples, window)
    contains_one = fitted.low - ROUNDING <= 1 <= fitted.high + ROUNDING
    telling = LINEAR[0] < fitted.low and fitted.high < LINEAR[1]
    linear = contains_one and telling and quadratic.c_low <= 0 <= quadratic.c_high
    low, high = (None if isnan(end) else end for end in (fitted.low, fitted.high))
    ends = (min(inside), max(inside))
    return Slope(fitted.value, low, high, ends, linear, quadratic, growth(samples))


def shape(one: Curve, measure: Measure) -> Growth | None:
    """Which shape fits the whole curve best, costs per sequence (or per generated token)."""
    return growth(_samples(one, measure))


def _samples(one: Curve, measure: Measure) -> dict[int, list[list[float]]]:
    """Per-token costs of a whole pass are taken per sequence, like the others."""
    per_token = measure.per == "token" and measure.probe != "decode"
    return {
        length: [
            [value * (length if per_token else 1) for value in repeats] for repeats in processes
        ]
        for length, processes in ((point.length, point.processes) for point in one.points)
        if processes
    }
