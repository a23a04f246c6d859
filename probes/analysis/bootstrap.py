"""Grouped samples, the value of a point, and its errors drawn by a bootstrap.

`Samples` maps a context length to its processes by number, and each process to its raw repeats, in
seconds (or any positive cost). Other work on the machine only ever adds to a time, so a point is
the lower quartile over its processes of the lower quartile over their repeats: as precise as a
median where nothing disturbs, and right with up to half of the repeats delayed
(docs/statistics.md).

Noise is relative, so it is drawn in logarithms, and independently for every point of every draw:

* Points of several processes. All repeats of one process share an offset (memory layout, a busy
  neighbour) which they cannot show, so the values of processes are what is drawn: from the
  differences between two processes of a point, over sqrt 2, in units of that point's noise, pooled
  over lengths. A process that a burst has hit is recognised by its distance from the point, in
  units of what is usual for the model, and is left out. The variance of a point is a weighted mean
  of its own, and of the usual one with `PRIOR` degrees of freedom; where it is unclear which
  processes are hit, the spread of all of them, so that such a point widens its own interval only.

* Points of one process. Residuals of the repeats are pooled over the lengths, and a draw takes the
  quartile of as many as there are repeats. The offset of the process shows only as points that
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
"""Standard deviations beyond which a process counts as hit by a burst, and at which the errors of
repeats are cut. What is delayed by more is either left out by the quartile, or shows in its own
point: as processes that differ, or as scatter about the curve."""
PRIOR = 8
"""Degrees of freedom that the usual noise of a model weighs against that of a point."""
ROUNDS = 10
"""Most iterations; they end earlier when leaving out outliers changes nothing."""


def numbered(processes: Processes) -> dict[int, Repeats]:
    """The repeats by process number."""
    return dict(processes if isinstance(processes, Mapping) else enumerate(processes))


def typical(repeats: Repeats) -> float:
    """The value of one process: the lower quartile of its repeats."""
    return float(lower_quartile(np.asarray(repeats, dtype=np.float64)))


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
    """Whether the processes of a point show how much processes differ: there are two spare ones."""
    return sum(len(point) - 1 for point in points) > 1


def errors(groups: Groups, rng: np.random.Generator) -> Array | None:
    """Errors of the log values `[draws, points]`, or `None` if no point has two values.

    With one process per point they lack the offset of that process: add `scatter`.
    """
    if in_several_processes(groups):
        return process_errors([logs[:, None] for logs in levels(groups)], rng)
    return repeat_errors(groups, rng)


def contrast(points: Array) -> Array:
    """Lower quartile over the processes of logs `[..., processes, models]`; with two
    models, that of the first less that of the second."""
    return _less(lower_quartile(np.swapaxes(points, -1, -2)))


def _less(logs: Array) -> Array:
    """The first of the last axis, less the second if there is one."""
    return np.asarray(np.subtract.reduce(logs, axis=-1))


def process_errors(points: Sequence[Array], rng: np.random.Generator) -> Array:
    """Errors `[draws, points]` of the `contrast` of the `unhit` processes of every point.

    A point is its logs `[processes, models]`. The models of a process are drawn together,
    so that what slows both cancels.
    """
    kept = unhit(points)
    # Standard deviation of one process, by point: a weighted mean of its own and the usual one;
    # where bursts cannot be identified, that of all its processes.
    spares = np.array([max(0, len(some) - 1) for some in kept])
    variances = np.array([_less(some).var(ddof=1) if len(some) > 1 else 0.0 for some in kept])
    usual = float(spares @ variances) / max(1, int(spares.sum()))
    sizes = np.sqrt((PRIOR * usual + spares * variances) / (PRIOR + spares))
    for place, (point, some) in enumerate(zip(points, kept, strict=True)):
        if not len(some):
            sizes[place] = np.sqrt(np.square(_less(point) - contrast(point)).mean())
    pool = np.concatenate(
        [
            (some[:, None] - some)[~np.eye(len(some), dtype=bool)] / (2**0.5 * size)
            for some, size in zip(kept, sizes, strict=True)
            if len(some) > 1 and size > 0
        ]
        or [np.zeros((1, points[0].shape[1]))]
    )
    counts = np.array([len(some) or len(point) for some, point in zip(kept, points, strict=True)])
    noise = _draws(pool, counts, contrast, rng)
    noise -= noise.mean(axis=0)
    spare = max(1, sum(len(some) - 1 for some in kept if len(some)))
    return noise * sizes * np.sqrt(spare / rng.chisquare(spare, size=(len(noise), 1)))


def doubt(points: Sequence[Array] | Groups, rng: np.random.Generator) -> Array:
    """Factors `[draws, points]`: how much more or less noise a point may have than it shows."""
    freedom = np.array([PRIOR + len(point) - 1 for point in points])
    return np.sqrt(freedom / rng.chisquare(freedom, size=(DRAWS, len(freedom))))


def unhit(points: Sequence[Array]) -> list[Array]:
    """Rows of every point that no burst has hit; none of them where that is unclear.

    A burst moves the difference between the models of its process away from the `contrast` of the
    point. Where processes drift apart as well, the quartiles of the two models can be those of
    different processes; then most processes agree with the median of the differences instead, which
    lies no further off than they drift.
    """
    near = GROSS * _spread([_less(point) for point in points if len(point) > 1])
    ranges = [np.ptp(point, axis=0).min() for point in points if len(point) > 1]
    far = near + (float(np.median(ranges)) if ranges else 0.0)
    kept = []
    for point in points:
        gaps, centre_ = _less(point), contrast(point)
        middle = np.median(gaps)
        best, other = (np.abs(gaps - start) <= near for start in (centre_, middle))
        if abs(middle - centre_) <= far and other.sum() > max(best.sum(), len(point) / 2):
            best = other
        kept.append(point[best] if best.sum() >= len(point) // 2 else point[:0])
    return kept if max(map(len, kept)) > 1 else list(points)


def _spread(points: Sequence[Array]) -> float:
    """Standard deviation of the values of a point, pooled, without those that bursts moved."""
    gaps = [point - np.median(point) for point in points]
    every = np.abs(np.concatenate(gaps)) if gaps else np.zeros(1)
    size = float(np.median(every[every > 0])) if every.any() else 0.0
    for _ in range(ROUNDS):
        near = [some for gap in gaps if len(some := gap[np.abs(gap) <= GROSS * size]) > 1]
        if not near:
            break
        squares = sum(float(np.square(some - some.mean()).sum()) for some in near)
        before, size = size, (squares / sum(len(some) - 1 for some in near)) ** 0.5
        if size == before:
            break
    return size


def repeat_errors(groups: Groups, rng: np.random.Generator) -> Array | None:
    """Errors `[draws, points]` of the log values that the repeats within processes explain."""
    flat = [np.log(repeats) for point in groups for repeats in point.values()]
    residuals = [
        (logs - np.quantile(logs, QUANTILE)) * np.sqrt(len(logs) / (len(logs) - 1))
        for logs in flat
        if len(logs) > 1
    ]
    if not residuals:
        return None
    pool = np.concatenate(residuals)
    # Below the quartile nothing is delayed: that side shows the size of the noise alone.
    usual = float(np.sqrt(np.square(pool[pool < 0]).mean())) if (pool < 0).any() else 0.0
    pool = np.minimum(pool, GROSS * usual) if usual else pool
    noise = _draws(pool, np.array([len(logs) for logs in flat]), lower_quartile, rng)
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


def _draws(pool: Array, counts: Array, average: Average, rng: np.random.Generator) -> Array:
    """`[draws, len(counts)]` averages, each of `count` values drawn from the pool."""
    averages = np.empty((DRAWS, len(counts)))
    for count in sorted(set(counts.tolist())):
        columns = np.flatnonzero(counts == count)
        drawn = pool[rng.integers(len(pool), size=(DRAWS, len(columns), count))]
        averages[:, columns] = average(drawn)
    return averages
