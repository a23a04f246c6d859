"""Grouped samples, and the errors of their medians drawn by a bootstrap.

`Samples` maps a context length to its processes, and each process to its raw repeats, in seconds
(or any positive cost). A point is the median over its processes of the median over their repeats.
Noise is relative, so it is drawn in logarithms. It has two levels, and a draw gives every point
fresh luck on both:

* Processes. All repeats of one process share its luck (memory layout, a busy neighbour), which they
  cannot show. Where every point was measured in two or more, deviations of process medians from
  their point are pooled over the lengths of one contestant, so that a few processes per point are
  enough, and drawn with replacement. Their size is what repeats do not explain, drawn from the
  chi-squared distribution that its degrees of freedom allow.
* Repeats within a process. Their residuals are pooled over the lengths of one contestant too, since
  with five repeats a point's own make intervals far too narrow. A draw gives every process a fresh
  median of as many residuals as it has repeats.

Residuals are scaled by sqrt(n / (n - 1)) for the average already fitted to them. With one process
per point its luck shows only as points that scatter about a smooth curve by more than their repeats
explain; `scatter` draws it from there. A curve that fits badly then widens the interval too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Samples = Mapping[int, Sequence[Sequence[float]]]
Array = NDArray[np.float64]
Groups = list[list[Array]]
"""By point and process, the logs of the repeats."""

DRAWS = 2000


def centre(processes: Sequence[Sequence[float]]) -> float:
    """The value of a point: the median of the medians of its processes."""
    return float(np.median([np.median(repeats) for repeats in processes]))


def medians(samples: Samples, lengths: Array) -> Array:
    """The value of every point, in seconds."""
    return np.array([centre(samples[int(length)]) for length in lengths])


def grouped(samples: Samples, window: tuple[int, int] | None = None) -> tuple[Array, Groups]:
    """Lengths in ascending order, those in `window` (inclusive) only, and the logs measured there.

    Raises `ValueError` if a sample is not positive.
    """
    first, last = window or (0, np.inf)
    lengths = sorted(length for length in samples if first <= length <= last and samples[length])
    groups = []
    for length in lengths:
        processes = [np.asarray(repeats, dtype=np.float64) for repeats in samples[length]]
        if not all((repeats > 0).all() for repeats in processes):
            shown = [repeats.tolist() for repeats in processes]
            raise ValueError(f"samples at length {length} must be positive, got {shown}")
        groups.append([np.log(repeats) for repeats in processes])
    return np.asarray(lengths, dtype=np.float64), groups


def in_several_processes(groups: Groups) -> bool:
    """Whether every point was measured in at least two, so that their luck is known."""
    return all(len(processes) > 1 for processes in groups)


def errors(groups: Groups, rng: np.random.Generator) -> Array | None:
    """Errors of the log medians `[draws, points]`, or `None` if no point has two values.

    With one process per point they lack its luck: add `scatter`.
    """
    flat = [repeats for processes in groups for repeats in processes]
    several = in_several_processes(groups)
    pool = _pooled(flat, np.median)
    if not len(pool) and not several:
        return None
    noise = np.zeros((DRAWS, len(flat)))
    if len(pool):
        noise = _medians_of_draws(pool, [len(repeats) for repeats in flat], rng)
    if several:
        noise += _process_luck(groups, noise.var(), rng)
    ends = np.cumsum([len(processes) for processes in groups])[:-1]
    return np.stack([_middle(part) for part in np.split(noise, ends, axis=1)], axis=1)


def scatter(residuals: Array, freedom: int, noise: Array, rng: np.random.Generator) -> Array:
    """Noise `[draws, points]` for what the residuals of a fit show beyond `noise`."""
    size = _excess(float(residuals @ residuals), freedom, noise.var(), rng)
    return size[:, None] * rng.standard_normal(noise.shape)


def _process_luck(groups: Groups, explained: float, rng: np.random.Generator) -> Array:
    """Deviations `[draws, processes]` of processes from their point, beyond `explained`."""
    levels = [np.array([np.median(repeats) for repeats in processes]) for processes in groups]
    pool = _pooled(levels, np.mean)
    squares = sum(float(np.square(level - level.mean()).sum()) for level in levels)
    count = sum(map(len, levels))
    if squares == 0:
        return np.zeros((DRAWS, count))
    size = _excess(squares, count - len(levels), explained, rng)
    unit = pool / np.sqrt(np.square(pool).mean())
    return size[:, None] * unit[rng.integers(len(unit), size=(DRAWS, count))]


def _excess(squares: float, freedom: int, explained: float, rng: np.random.Generator) -> Array:
    """Standard deviations `[draws]` of what `squares` hold beyond the variance `explained`."""
    if freedom < 1:
        return np.zeros(DRAWS)
    variance = squares / rng.chisquare(freedom, size=DRAWS)
    return np.sqrt(np.maximum(variance - explained, 0))


def _pooled(parts: Sequence[Array], average: Callable[[Array], Any]) -> Array:
    """Residuals of all parts that have two values about their average, in one row."""
    scaled = [
        (part - average(part)) * np.sqrt(len(part) / (len(part) - 1))
        for part in parts
        if len(part) > 1
    ]
    return np.concatenate(scaled) if scaled else np.empty(0)


def _medians_of_draws(pool: Array, counts: Sequence[int], rng: np.random.Generator) -> Array:
    """`[draws, len(counts)]` medians, each of `count` values drawn from the pool."""
    found = np.empty((DRAWS, len(counts)))
    for count in sorted(set(counts)):
        columns = [place for place, one in enumerate(counts) if one == count]
        found[:, columns] = _middle(
            pool[rng.integers(len(pool), size=(DRAWS, len(columns), count))]
        )
    return found


def _middle(values: Array) -> Array:
    """Median over the last axis; several times as fast as `np.median` on short ones."""
    ordered = np.sort(values, axis=-1)
    count = values.shape[-1]
    return (ordered[..., (count - 1) // 2] + ordered[..., count // 2]) / 2
