"""Which of two models needs less, at which lengths, and where that changes: with an interval.

The ratio of a point is that of the values of the two models, lower quartiles over the processes
that both have, without those that a burst has hit in either (`probes.analysis.bootstrap.unhit`).
The two are measured next to each other in time, so what slows the machine slows both: processes are
paired by their number, and their errors drawn in pairs
(`probes.analysis.bootstrap.process_errors`).

The intervals of the ratios hold simultaneously: the widest error over all lengths of a draw sets
how many standard deviations wide they are, so that all of them contain the truth in 95 % of sweeps,
and a side claimed anywhere on a sweep is wrong in at most 5 %. A change of side is claimed only
between two lengths whose intervals lie on different sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf, log

import numpy as np

from core.interval import Interval
from probes.analysis import bootstrap
from probes.analysis.bootstrap import Array, Groups, Samples
from probes.analysis.estimators import LEVELS, about_smooth
from probes.analysis.interpolation import root

BELOW, ABOVE, EQUAL, UNDECIDED = "below", "above", "equal", "undecided"


@dataclass(frozen=True)
class Resolution:
    """What a difference must exceed, as a relative and an absolute amount; the larger counts."""

    relative: float = 0.0
    absolute: float = 0.0
    """In the unit of the measure."""
    single: float = 0.0
    """Relative, of a difference between two single values, whose noise is not known."""
    exact: bool = False
    """Counts without noise."""
    systematic: bool = False
    """Whether a smaller difference is no difference however often it is measured."""

    def of(self, value: float) -> float:
        """The resolution as a difference of logs, at the smaller of two values."""
        return log(1 + max(self.relative, self.absolute / value))


@dataclass(frozen=True)
class Change:
    """A decided change of side."""

    length: Interval
    """In tokens; without ends where points are single values."""
    to: str
    """The side beyond it: `below` or `above`."""


@dataclass(frozen=True)
class Ratios:
    """Ratio of the first model's cost to the second's, by length."""

    intervals: dict[int, Interval]
    """Together they hold in 95 % of sweeps; single values have no ends."""
    sides: dict[int, str]
    changes: tuple[Change, ...]
    measured_changes: int
    """How often the measured ratio changes sides, decided or not."""


def ratios(samples_a: Samples, samples_b: Samples, resolution: Resolution, seed: int = 0) -> Ratios:
    """A over B at the lengths measured for both."""
    shared = sorted(
        length for length in set(samples_a) & set(samples_b)
        if samples_a[length] and samples_b[length]
    )  # fmt: skip
    if not shared:
        return Ratios({}, {}, (), 0)
    lengths, groups_a = bootstrap.grouped({length: samples_a[length] for length in shared})
    _, groups_b = bootstrap.grouped({length: samples_b[length] for length in shared})
    smaller = np.minimum(
        bootstrap.centres(samples_a, lengths), bootstrap.centres(samples_b, lengths)
    )
    limits = np.array([resolution.of(value) for value in smaller])
    points = [_shared(a, b) for a, b in zip(groups_a, groups_b, strict=True)]
    kept = points if resolution.exact else bootstrap.unhit(points)
    best = [some if len(some) else point for some, point in zip(kept, points, strict=True)]
    value = np.array([float(bootstrap.contrast(logs)) for logs in best])
    noise = None
    if not resolution.exact:
        rng = np.random.default_rng(seed)
        noise = _noise(lengths, points, (groups_a, groups_b), rng)
    if noise is None:
        sides = [
            _side(ratio, ratio, limit, resolution)
            for ratio, limit in zip(value, limits, strict=True)
        ]  # fmt: skip
        bounds = np.full((2, len(value)), np.nan)
    else:
        several = bootstrap.in_several_processes(points)
        reach = band(noise * bootstrap.doubt(points, rng) if several else noise)
        bounds = np.stack([value - reach, value + reach])
        sides = [
            _side(low, high, limit, resolution)
            for low, high, limit in zip(*bounds, limits, strict=True)
        ]
    if noise is None and not resolution.exact:
        # Nothing says how far single values are off: only what is clear beyond doubt is decided.
        least = np.maximum(2 * limits, log(1 + resolution.single))
        sides = [
            side if side == EQUAL or abs(ratio) > bar else UNDECIDED
            for side, ratio, bar in zip(sides, value, least, strict=True)
        ]
    return Ratios(
        {
            length: Interval(*np.exp([value[place], *bounds[:, place]]).tolist())
            for place, length in enumerate(shared)
        },
        dict(zip(shared, sides, strict=True)),
        tuple(_changes(np.log(lengths), value, noise, sides)),
        int(np.count_nonzero(np.diff(value >= 0))),
    )


def _shared(first: dict[int, Array], second: dict[int, Array]) -> Array:
    """Logs `[processes, 2]` of the processes both have; of the points if there are none."""
    both = sorted(first.keys() & second.keys())
    if not both:
        return np.log([[bootstrap.centre(first), bootstrap.centre(second)]])
    return np.log([[bootstrap.typical(each[n]) for each in (first, second)] for n in both])


def _noise(
    lengths: Array, points: Sequence[Array], both: tuple[Groups, Groups], rng: np.random.Generator
) -> Array | None:
    """Errors of the log ratios `[draws, points]`, or `None` for single values."""
    if bootstrap.in_several_processes(points):
        return bootstrap.process_errors(points, rng)
    noises = [bootstrap.repeat_errors(groups, rng) for groups in both]
    if noises[0] is None or noises[1] is None:
        return None
    noise = noises[0] - noises[1]
    rests, freedom = [], []
    for groups in both:
        values = np.array([bootstrap.centre(point) for point in groups])
        rest, degrees = about_smooth(lengths, values)
        rests.append(rest)
        freedom.append(degrees)
    return noise + bootstrap.scatter(rests[0] - rests[1], min(freedom), noise, rng)


def band(noise: Array) -> Array:
    """Half-widths, one per point, that hold all points together in 95 % of the draws."""
    # The size of an error is read off its bulk: a burst in few draws is the maximum's business.
    size = np.quantile(np.abs(noise), 0.75, axis=0)
    if not size.any():
        return size
    unit = np.where(size > 0, size, inf)
    return size * np.quantile(np.max(np.abs(noise) / unit, axis=1), 0.95)


def _side(low: float, high: float, limit: float, resolution: Resolution) -> str:
    bar = limit if resolution.systematic else 0.0
    if -limit <= low and high <= limit:
        return EQUAL
    if high < -bar:
        return BELOW
    return ABOVE if low > bar else UNDECIDED


def _changes(x: Array, value: Array, noise: Array | None, sides: Sequence[str]) -> list[Change]:
    """Between two neighbours, of those that are on a side, that are on different ones."""
    changes = []
    decided = [place for place, side in enumerate(sides) if side in (BELOW, ABOVE)]
    for before, after in pairwise(decided):
        if sides[before] == sides[after]:
            continue
        sign = 1.0 if sides[before] == ABOVE else -1.0
        length = float(np.exp(_place(x, sign * value[None], before, after)[0]))
        interval = Interval(length)
        if noise is not None:
            drawn = _place(x, sign * (value + noise), before, after)
            interval = Interval(length, *np.exp(np.percentile(drawn, LEVELS)))
        changes.append(Change(interval, sides[after]))
    return changes


def _place(x: Array, rows: Array, before: int, after: int) -> Array:
    """Where every row `[rows, points]` becomes negative between the points `before` and `after`.

    Where noise makes a row change sign several times, halfway between the first and the last.
    """
    positive = rows[:, before : after + 1] >= 0
    first = before + np.argmin(positive, axis=1) - 1  # the last point before the first change
    last = after - np.argmax(positive[:, ::-1], axis=1)
    places = np.where(positive[:, -1], x[after], x[before])
    inside = np.flatnonzero(positive[:, 0] & ~positive[:, -1])
    places[inside] = root(x, rows[inside], first[inside])
    twice = inside[first[inside] < last[inside]]
    places[twice] = (places[twice] + root(x, rows[twice], last[twice])) / 2
    return places
