"""From rows to comparisons: curves, which model needs less at which length, crossovers and slopes.

A *measure* is one quantity against context length, e.g. training time per sequence. For every
measure each series has a curve, and every recurrent series is compared with every attention series.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from core.interval import Interval
from probes.analysis import estimators, ratios
from probes.analysis.bootstrap import centre
from probes.analysis.dataset import Dataset, Series
from probes.analysis.estimators import Bend, PolynomialFit
from probes.analysis.metrics import MEASURES, Measure, values_of
from probes.analysis.ratios import ABOVE, BELOW, EQUAL, UNDECIDED, Resolution
from probes.analysis.shape_fit import ROUNDING, Growth, growth
from probes.rows import Row

DISTURBED = "disturbed"
"""Status of a point whose processes were all disturbed by others: it is drawn, and used nowhere."""

MIB = 2**20
TIME = Resolution(relative=0.01, single=0.1)
PEAK = Resolution(relative=0.01, absolute=2 * MIB, systematic=True)
SHARE = Resolution(relative=0.02, systematic=True)
EXACT = Resolution(exact=True)
RESOLUTIONS = {"peak_bytes": PEAK, "state_bytes": EXACT, "share": SHARE}
"""By field of the measure, all others `TIME`. Peak memory moves by pages and by what allocators
keep, up to about a MiB from nothing at all."""


@dataclass(frozen=True)
class Point:
    """One context length of one curve; `processes` is empty unless ok or disturbed."""

    length: int
    status: str
    processes: Mapping[int, tuple[float, ...]]
    """The repeats of every process, by its number; undisturbed ones only, unless all were."""
    error: str | None = None

    @property
    def values(self) -> tuple[float, ...]:
        """All repeats of all processes."""
        return tuple(value for repeats in self.processes.values() for value in repeats)

    @property
    def value(self) -> float:
        """The lower quartile of those of the processes (`probes.analysis.bootstrap.centre`)."""
        return centre(self.processes)

    @property
    def quartiles(self) -> tuple[float, float]:
        low, high = np.percentile(self.values, [25, 75])
        return float(low), float(high)


@dataclass(frozen=True)
class Curve:
    """The points of one series, by rising length."""

    series: Series
    points: tuple[Point, ...]

    @property
    def measured(self) -> dict[int, Point]:
        """What may be compared."""
        return {point.length: point for point in self.points if point.status == "ok"}

    @property
    def disturbed(self) -> list[Point]:
        return [point for point in self.points if point.status == DISTURBED]

    @property
    def failed(self) -> list[Point]:
        return [point for point in self.points if point.status not in ("ok", DISTURBED)]


@dataclass(frozen=True)
class Comparison:
    """One recurrent series against one attention series in one measure.

    `kind` follows the intervals of the ratio: `crosses` (the recurrent one is decidedly dearer at
    some length and cheaper beyond), `reverse` (cheaper, and dearer beyond), `several` (more than
    one decided change of side), `always` and `never` (cheaper, or dearer, at every length but those
    that are equal), `equal` (all lengths are), `undecided` (no change of side is decided, and at
    some length the side is not), or `missing` (fewer than two lengths measured for both).
    """

    measure: Measure
    recurrent: Curve
    attention: Curve
    kind: str
    crossings: tuple[Interval, ...] = ()
    """Every decided change of side, by rising length in tokens. An interval lies between the two
    measured lengths that are decided on different sides; it has no ends where points are single
    values."""
    intervals: dict[int, Interval] = field(default_factory=dict)
    """Cost of the recurrent series over that of the attention series, by length. The intervals hold
    together: a sweep in twenty has one that misses. Single values have no ends."""
    sides: dict[int, str] = field(default_factory=dict)
    """By length, where the recurrent series is: `below` (cheaper), `above`, `equal` (the difference
    is smaller than the resolution of the measure) or `undecided`."""

    @property
    def between(self) -> tuple[int, int] | None:
        """Shortest and longest length measured for both where the side is not decided."""
        undecided = [length for length, side in self.sides.items() if side == UNDECIDED]
        return (min(undecided), max(undecided)) if undecided else None

    @property
    def none_in_range(self) -> bool:
        """Whether it is decided that there is no `crossover`: nothing is open at the end."""
        if self.crossover or self.kind in ("missing", "undecided"):
            return False
        return self.sides[max(self.sides)] != UNDECIDED

    @property
    def resolution(self) -> Resolution:
        """What a difference must exceed to be one."""
        return RESOLUTIONS.get(self.measure.field, TIME)

    @property
    def note(self) -> str:
        """What the kind implies, in words."""
        if self.kind == "several":
            return f"{len(self.crossings)} decided changes of side"
        equal = [f"{at:,}" for at in self.on(EQUAL)]
        meanings = {
            "crosses": "one crossing",
            "reverse": "cheaper up to some length, dearer beyond",
            "always": "cheaper at every length" + (" where they differ" if equal else ""),
            "never": "never cheaper up to the longest length",
            "equal": "no difference at any length",
        }
        parts = [meanings[self.kind]] if self.kind in meanings else []
        if equal and self.kind != "equal":
            parts.append(f"equal at {', '.join(equal)} tokens")
        if unclear := [f"{at:,}" for at, side in self.sides.items() if side == UNDECIDED]:
            parts.append(f"not decided at {', '.join(unclear)} tokens")
        return "; ".join(parts)

    @property
    def lengths(self) -> list[int]:
        """Lengths measured for both."""
        return sorted(self.recurrent.measured.keys() & self.attention.measured.keys())

    def on(self, *sides: str) -> list[int]:
        """Lengths on one of these sides."""
        return [length for length, side in self.sides.items() if side in sides]

    def ratio(self, length: int) -> float:
        """Cost of the recurrent series over that of the attention series; below 1 it is cheaper."""
        return self.intervals[length].number

    def sure(self, length: int) -> float:
        """The end of the ratio's interval that is nearer to 1; the ratio itself without one."""
        interval = self.intervals[length]
        end = interval.high if interval.number < 1 else interval.low
        return interval.number if end is None else end

    @property
    def disturbed(self) -> list[Point]:
        """Points of either series that would have been compared."""
        return [*self.recurrent.disturbed, *self.attention.disturbed]

    @property
    def crossover(self) -> Interval | None:
        """The length from which the recurrent one stays cheaper where a side is decided, if there
        is one."""
        decided = self.on(BELOW, ABOVE)
        wins_at_the_end = self.crossings and self.sides[decided[-1]] == BELOW
        return self.crossings[-1] if wins_at_the_end else None


@dataclass(frozen=True)
class Slope:
    """How a cost grows over `window`; costs are per sequence (or per generated token)."""

    exponent: Interval
    """The p of `cost ~ T^p`; without ends where points are single numbers."""
    window: tuple[int, int]
    linear: bool
    quadratic: PolynomialFit
    """`a + bT + cT^2` over the same window."""
    growth: Growth | None
    """Which shape fits best, over all lengths measured."""
    bend: Bend | None = None
    """How the cost departs from `a + bT` over the same window; None with three lengths."""


def rows_at(rows: Iterable[Row], probe: str, sweep: str) -> dict[int, dict[int, Row]]:
    """By rising length and by process, the row that counts: the last one."""
    points: dict[int, dict[int, Row]] = defaultdict(dict)
    for row in rows:
        if (row.probe, row.sweep) == (probe, sweep):
            points[row.context_length][row.process] = row
    return dict(sorted(points.items()))


def curve(series: Series, measure: Measure) -> Curve:
    """One point per length; where a process was measured again, the last row counts.

    A point of which one process failed has failed: using those that finished would bias it. Times
    of disturbed processes are left out, and a point of which none is left is `disturbed`.
    """
    points = []
    for length, by_process in rows_at(series.rows, measure.probe, measure.sweep).items():
        failed = [row for _, row in sorted(by_process.items()) if row.status != "ok"]
        quiet = {
            n: row for n, row in by_process.items() if not (measure.timed and row.is_disturbed)
        }
        values = {
            number: repeats
            for number, row in sorted((quiet or by_process).items())
            if (repeats := values_of(row, measure))
        }
        if failed:
            points.append(Point(length, failed[0].status, {}, failed[0].error))
        elif values:
            points.append(Point(length, "ok" if quiet else DISTURBED, values))
    return Curve(series, tuple(points))


def curves(dataset: Dataset, measure: Measure) -> list[Curve]:
    """The curves of all series that have a point of this measure, failed ones included.

    A measure that is not `always` shown needs a finished point of one of them, disturbed or not.
    """
    drawn = [curve(series, measure) for series in dataset.all_series]
    if not measure.always and not any(
        candidate.measured or candidate.disturbed for candidate in drawn
    ):
        return []
    return [candidate for candidate in drawn if candidate.points]


def comparisons(dataset: Dataset) -> list[Comparison]:
    """Every pair in every measure; all but the always shown ones only where they were probed."""
    return [
        find(curve(recurrent, measure), curve(attention, measure), measure)
        for measure in MEASURES
        if measure.always or curves(dataset, measure)
        for recurrent, attention in dataset.pairs
    ]


def find(recurrent: Curve, attention: Curve, measure: Measure) -> Comparison:
    """Compare two curves: the side of each length, and the lengths at which it changes."""
    resolution = RESOLUTIONS.get(measure.field, TIME)
    compared = ratios.ratios(
        {length: point.processes for length, point in recurrent.measured.items()},
        {length: point.processes for length, point in attention.measured.items()},
        resolution,
    )
    crossings = tuple(change.length for change in compared.changes)
    kind = kind_of(list(compared.sides.values()))
    return Comparison(
        measure, recurrent, attention, kind, crossings, compared.intervals, compared.sides
    )


def kind_of(sides: list[str]) -> str:
    decided = [side for side in sides if side in (BELOW, ABOVE)]
    changes = sum(side != other for side, other in pairwise(decided))
    if len(sides) < 2:
        return "missing"
    if changes:
        return "several" if changes > 1 else "crosses" if decided[0] == ABOVE else "reverse"
    if UNDECIDED in sides:
        return "undecided"
    if not decided:
        return "equal"
    return "always" if decided[0] == BELOW else "never"


BEND = 0.12
"""The most that `cT^2` may be of the cost at the longest length."""
GROWS = 0.01
"""A cost whose slope may be smaller is constant, not linear."""
LOCAL = (0.85, 1.15)
"""What the slope at the longest lengths, without the fixed part, must be able to be."""


def slope(fitted_curve: Curve, measure: Measure, window: tuple[int, int]) -> Slope | None:
    """The log-log slope over the window, or None with fewer than three lengths inside it.

    `linear` says that the cost is a + bT, with a constant or without: the interval of the bend
    beyond that contains 0 and stays within `BEND`, and that of the slope at the longest lengths,
    with the constant taken off, reaches into `LOCAL`. It needs four lengths.
    """
    samples = _samples(fitted_curve, measure)
    inside = [length for length in samples if window[0] <= length <= window[1]]
    if len(inside) < 3:
        return None
    fitted = estimators.loglog_slope(samples, window)
    quadratic = estimators.polynomial_fit(samples, window)
    bend = estimators.bend(samples, window)
    ends = (min(inside), max(inside))
    grows = fitted.low is not None and fitted.low > GROWS
    linear = grows and bend is not None and is_linear(bend)
    return Slope(fitted, ends, linear, quadratic, growth(samples), bend)


def is_linear(bend: Bend) -> bool:
    share, local = bend.share.ends, bend.local.ends
    if share is None or local is None:
        return False
    straight = -BEND < share[0] <= ROUNDING and -ROUNDING <= share[1] < BEND
    return straight and local[0] < LOCAL[1] and LOCAL[0] < local[1]


def shape(fitted_curve: Curve, measure: Measure) -> Growth | None:
    """Which shape fits the whole curve best, costs per sequence (or per generated token)."""
    return growth(_samples(fitted_curve, measure))


def _samples(fitted_curve: Curve, measure: Measure) -> dict[int, dict[int, list[float]]]:
    """Per-token costs of a whole pass are taken per sequence, like the others; those of a
    generated token are not."""
    per_token = measure.per == "token" and measure.probe not in ("decode", "max_batch")
    return {
        length: {
            number: [value * (length if per_token else 1) for value in repeats]
            for number, repeats in point.processes.items()
        }
        for length, point in fitted_curve.measured.items()
    }
