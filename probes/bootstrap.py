"""Grouped samples, the value of a point, and its errors drawn by a bootstrap.

`Samples` maps a context length to its processes by number, and each process to its raw repeats, in
seconds (or any positive cost). Other work on the machine only ever adds to a time, so a point is
the lower quartile over its processes of the lower quartile over their repeats: as sure as a median
where nothing disturbs, and right with up to half of the repeats delayed (docs/statistics.md).

Noise is relative, so it is drawn in logarithms, and every point gets fresh luck in every draw:

* Points of several processes. All repeats of one process share its luck (memory layout, a busy
  neighbour), which they cannot show, so the values of processes are what is drawn: from the
  differences between two processes of a point, over sqrt 2, in units of that point's noise, pooled
  over lengths. A point's noise is its own variance weighed with `PRIOR` degrees of freedom against
  what is usual for the contestant, so that one disturbed point widens its own interval only.
* Points of one process. Residuals of the repeats are pooled over the lengths, and a draw takes the
  quartile of as many as there are repeats. The luck of the process shows only as points that
  scatter about a smooth curve by more than that; `scatter` draws it from there. A curve that fits
  badly then widens the interval too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Repeats = Sequence[float] | Array
Processes = Mapping[int, Repeats] | Sequence[Repeats]
"""By number, or numbered from 0."""
Samples = Mapping[int, Processes]
Groups = list[dict[int, Array]]
"""By point and process, the repeats."""

Average = Callable[[Array], Array]
"""Over the last axis."""

DRAWS = 2000
QUANTILE = 0.25
GROSS = 4.0
"""Standard deviations at which drawn errors are cut. What is delayed by more is either left out by
the quartile, or shows in its own point: as processes that differ, or as scatter about the curve."""
PRIOR = 8
"""Degrees of freedom that the usual noise of a contestant weighs against that of a point."""


def numbered(processes: Processes) -> dict[int, Repeats]:
    """The repeats by process number."""
    return dict(processes if isinstance(processes, Mapping) else enumerate(processes))


def typical(repeats: Repeats) -> float:
    """The value of one process: the lower quartile of its repeats."""
    return float(np.quantile(repeats, QUANTILE))


def centre(processes: Processes) -> float:
    """The value of a point: the lower quartile of the values of its processes."""
    return typical([typical(repeats) for repeats in numbered(processes).values()])


def centres(samples: Samples, lengths: Array) -> Array:
    """The value of every point, in seconds."""
    return np.array([centre(samples[int(length)]) for length in lengths])


def grouped(samples: Samples, window: tuple[int, int] | None = None) -> tuple[Array, Groups]:
    """Lengths in ascending order, those in `window` (inclusive) only, and the repeats there.

    Raises `ValueError` if a sample is not positive.
    """
    first, last = window or (0, np.inf)
    lengths = sorted(length for length in samples if first <= length <= last and samples[length])
    groups = []
    for length in lengths:
        processes = {
            number: np.asarray(repeats, dtype=np.float64)
            for number, repeats in sorted(numbered(samples[length]).items())
        }
        if not all((repeats > 0).all() for repeats in processes.values()):
            shown = [repeats.tolist() for repeats in processes.values()]
            raise ValueError(f"samples at length {length} must be positive, got {shown}")
        groups.append(processes)
    return np.asarray(lengths, dtype=np.float64), groups


def levels(groups: Groups) -> list[Array]:
    """By point, the logs of the values of its processes."""
    return [np.log([typical(repeats) for repeats in point.values()]) for point in groups]


def in_several_processes(points: Sequence[Array] | Groups) -> bool:
    """Whether processes of one point say how much luck differs: there are two spare ones."""
    return sum(len(point) - 1 for point in points) > 1


def errors(groups: Groups, rng: np.random.Generator) -> Array | None:
    """Errors of the log values `[draws, points]`, or `None` if no point has two values.

    With one process per point they lack its luck: add `scatter`.
    """
    if in_several_processes(groups):
        return process_errors(levels(groups), lower_quartile, rng)
    return repeat_errors(groups, rng)


def process_errors(points: Sequence[Array], average: Average, rng: np.random.Generator) -> Array:
    """Errors `[draws, points]` of the average of every point's log values of processes."""
    counts = np.array([len(point) for point in points])
    sizes = _sizes(points)
    pool = np.concatenate(
        [
            (point[:, None] - point)[~np.eye(len(point), dtype=bool)] / (2**0.5 * size)
            for point, size in zip(points, sizes, strict=True)
            if len(point) > 1 and size > 0
        ]
        or [np.zeros(1)]
    )
    noise = _draws(np.clip(pool, -GROSS, GROSS), counts, average, rng)
    noise -= noise.mean(axis=0)
    freedom = PRIOR + counts - 1
    luck = np.sqrt(freedom / rng.chisquare(freedom, size=noise.shape))
    return noise * sizes * luck


def repeat_errors(groups: Groups, rng: np.random.Generator) -> Array | None:
    """Errors `[draws, points]` of the log values that the repeats within processes explain."""
    flat = [np.log(repeats) for point in groups for repeats in point.values()]
    residuals = [
        (one - np.quantile(one, QUANTILE)) * np.sqrt(len(one) / (len(one) - 1))
        for one in flat
        if len(one) > 1
    ]
    if not residuals:
        return None
    pool = np.concatenate(residuals)
    # Below the quartile nothing is delayed: that side shows the size of the noise alone.
    usual = float(np.sqrt(np.square(pool[pool < 0]).mean())) if (pool < 0).any() else 0.0
    pool = np.minimum(pool, GROSS * usual) if usual else pool
    noise = _draws(pool, np.array([len(one) for one in flat]), lower_quartile, rng)
    noise -= noise.mean(axis=0)
    ends = np.cumsum([len(point) for point in groups])[:-1]
    return np.stack([lower_quartile(part) for part in np.split(noise, ends, axis=1)], axis=1)


def scatter(residuals: Array, freedom: int, noise: Array, rng: np.random.Generator) -> Array:
    """Noise `[draws, points]` for what the residuals of a fit show beyond `noise`."""
    if freedom < 1:
        return np.zeros_like(noise)
    variance = float(residuals @ residuals) / rng.chisquare(freedom, size=len(noise))
    size = np.sqrt(np.maximum(variance - noise.var(), 0))
    return size[:, None] * rng.standard_normal(noise.shape)


def lower_quartile(values: Array) -> Array:
    """Over the last axis; several times as fast as `np.quantile` on short ones."""
    ordered = np.sort(values, axis=-1)
    place = QUANTILE * (values.shape[-1] - 1)
    first = int(place)
    last = min(first + 1, values.shape[-1] - 1)
    return ordered[..., first] + (place - first) * (ordered[..., last] - ordered[..., first])


def middle(values: Array) -> Array:
    """Median over the last axis; several times as fast as `np.median` on short ones."""
    ordered = np.sort(values, axis=-1)
    count = values.shape[-1]
    return (ordered[..., (count - 1) // 2] + ordered[..., count // 2]) / 2


def _sizes(points: Sequence[Array]) -> Array:
    """Standard deviation of one process, by point: its own weighed against the usual one."""
    spare = np.array([len(point) - 1 for point in points])
    own = np.array([point.var(ddof=1) if len(point) > 1 else 0.0 for point in points])
    known = spare > 0
    # The median of a variance of few values is below its mean (Wilson and Hilferty 1931).
    usual = np.median(own[known] / (1 - 2 / (9 * spare[known])) ** 3)
    # Of three or more processes the one furthest off may be a burst, which no median heeds.
    several = spare > 1
    if several.any():
        close = np.array([_close(point).var(ddof=1) for point in points if len(point) > 2])
        middling = np.median(close)
        own[several] = usual * close / middling if middling > 0 else own[several]
    return np.sqrt((PRIOR * usual + spare * own) / (PRIOR + spare))


def _close(point: Array) -> Array:
    """Without the value that is furthest from the median."""
    return np.delete(point, np.argmax(np.abs(point - np.median(point))))


def _draws(pool: Array, counts: Array, average: Average, rng: np.random.Generator) -> Array:
    """`[draws, len(counts)]` averages, each of `count` values drawn from the pool."""
    found = np.empty((DRAWS, len(counts)))
    for count in sorted(set(counts.tolist())):
        columns = np.flatnonzero(counts == count)
        drawn = pool[rng.integers(len(pool), size=(DRAWS, len(columns), count))]
        found[:, columns] = average(drawn)
    return found
