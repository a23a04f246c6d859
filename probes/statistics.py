"""From raw times to statements with an interval: slope, curvature, crossover length.

`samples` maps a context length to the raw repeats measured there, in seconds (or any positive
cost). A point is the median of its repeats. Intervals are 95 % and come from one bootstrap, the
same for all three statements:

* Noise is relative, so it is resampled in logarithms. With five repeats a point's own residuals
  make intervals far too narrow, so the residuals of all lengths of one contestant are pooled, after
  scaling each point's by sqrt(n / (n - 1)) for the median already fitted to them. A draw gives
  every point a fresh median of as many residuals as it has repeats.
* All repeats of a point share one process and its luck (memory layout, a busy neighbour), which
  they cannot show. It shows as points that scatter about a smooth curve by more than their repeats
  explain: about the fitted line or polynomial, and for the crossover about the better of
  `a + bT + cT^2` and a parabola in log-log. That excess is added as a second noise, of a size drawn
  from the chi-squared distribution its few degrees of freedom allow. A curve that fits badly
  therefore widens the interval too.

An interval does not cover the error of interpolating between two measured lengths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import inf, nan

import numpy as np
from numpy.typing import NDArray

Samples = Mapping[int, Sequence[float]]
Array = NDArray[np.float64]

DRAWS = 2000
LEVELS = (2.5, 97.5)  # percentiles of a 95 % interval


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval; all nan where the data allow none."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PolynomialFit:
    """Non-negative coefficients of `a + bT + cT^2`, and the 95 % interval of `c`."""

    a: float
    b: float
    c: float
    c_low: float
    c_high: float


@dataclass(frozen=True)
class Crossover:
    """The length from which A stays cheaper than B."""

    length: float | None
    """`None` if there is none in the measured range."""
    low: float | None
    high: float | None
    """95 % interval. An end is `None` where it is censored: it lies below the shortest or above
    the longest length. Both are `None` without a length, or with a single repeat per point."""
    none_in_range: bool
    reason: str
    """In words: why there is none, or what to know about the one there is."""
    crossings: int
    """How often the measured ratio changes sides."""


def loglog_slope(
    samples: Samples, window: tuple[int, int] | None = None, seed: int = 0
) -> Estimate:
    """Ordinary least-squares slope of log time on log length: 1 is linear, 2 is quadratic.

    `window` keeps the lengths from its first to its second number, inclusive. Needs two lengths
    for a value and two repeats for an interval.
    """
    lengths, logs = _points(samples, window)
    if len(lengths) < 2:
        return Estimate(nan, nan, nan)
    design = np.stack([np.ones_like(lengths), np.log(lengths)], axis=1)
    medians = _medians(logs)
    solve = np.linalg.pinv(design)
    coefficients = solve @ medians
    rng = np.random.default_rng(seed)
    noise = _repeat_noise(logs, rng)
    if noise is None:
        return Estimate(float(coefficients[1]), nan, nan)
    noise += _scatter(medians - design @ coefficients, len(lengths) - 2, noise, rng)
    low, high = np.percentile(coefficients[1] + noise @ solve[1], LEVELS)
    return Estimate(float(coefficients[1]), float(low), float(high))


def polynomial_fit(samples: Samples, seed: int = 0) -> PolynomialFit:
    """Fit `a + bT + cT^2` with a, b, c >= 0, minimising relative errors.

    A slope over a window mixes the fixed, linear and quadratic parts of a time; this separates
    them. Needs three lengths for values and two repeats for the interval.
    """
    lengths, logs = _points(samples)
    if len(lengths) < 3:
        return PolynomialFit(nan, nan, nan, nan, nan)
    medians = _medians(logs)
    design = _polynomial_design(lengths, medians)
    units = lengths.max() ** np.arange(3)
    a, b, c = _nonnegative(design, np.ones((1, len(lengths))))[0] / units
    rng = np.random.default_rng(seed)
    noise = _repeat_noise(logs, rng)
    if noise is None:
        return PolynomialFit(float(a), float(b), float(c), nan, nan)
    noise += _scatter(*_about_polynomial(lengths, medians), noise, rng)
    drawn = _nonnegative(design, 1 + noise)[:, 2] / units[2]
    low, high = np.percentile(drawn, LEVELS)
    return PolynomialFit(float(a), float(b), float(c), float(low), float(high))


def crossover(samples_a: Samples, samples_b: Samples, seed: int = 0) -> Crossover:
    """Where A becomes cheaper than B for good, over the lengths measured for both.

    The log of the ratio of medians is interpolated linearly in log length; its last root, after
    which A stays cheaper up to the longest length, is the crossover.
    """
    shared = sorted(set(samples_a) & set(samples_b))
    if not shared:
        return Crossover(None, None, None, True, "no length was measured for both", 0)
    lengths, logs_a = _points({length: samples_a[length] for length in shared})
    _, logs_b = _points({length: samples_b[length] for length in shared})
    ratio = _medians(logs_a) - _medians(logs_b)
    root = float(_last_roots(np.log(lengths), ratio[None])[0])
    changes = int(np.count_nonzero(np.diff(ratio >= 0)))
    drawn = None
    noise = _noise_of_both(lengths, logs_a, logs_b, np.random.default_rng(seed))
    if noise is not None:
        drawn = _last_roots(np.log(lengths), ratio + noise[0] - noise[1])
    if np.isinf(root):
        reason = _why_none(root, changes)
        crossing = 0.0 if drawn is None else float(np.mean(np.isfinite(drawn)))
        if crossing > 0:
            reason += f" ({crossing:.0%} of the resamples do cross)"
        return Crossover(None, None, None, True, reason, changes)
    low = high = None
    if drawn is not None:
        # Whole draws, not interpolated: between a number and infinity there is no percentile.
        ends = np.percentile(drawn, LEVELS, method="nearest")
        low, high = (float(np.exp(end)) if np.isfinite(end) else None for end in ends)
    reason = "one crossing" if changes == 1 else f"the last of {changes} crossings"
    return Crossover(float(np.exp(root)), low, high, False, reason, changes)


def _points(samples: Samples, window: tuple[int, int] | None = None) -> tuple[Array, list[Array]]:
    """Lengths in ascending order and the logs of their repeats. Raises `ValueError` if one is
    not positive."""
    first, last = window or (0, np.inf)
    lengths = sorted(length for length in samples if first <= length <= last and samples[length])
    logs = []
    for length in lengths:
        values = np.asarray(samples[length], dtype=np.float64)
        if not (values > 0).all():
            raise ValueError(f"samples at length {length} must be positive, got {values.tolist()}")
        logs.append(np.log(values))
    return np.asarray(lengths, dtype=np.float64), logs


def _medians(logs: Sequence[Array]) -> Array:
    return np.array([np.median(values) for values in logs])


def _noise_of_both(
    lengths: Array, logs_a: Sequence[Array], logs_b: Sequence[Array], rng: np.random.Generator
) -> list[Array] | None:
    """Errors of the log medians, `[draws, points]` of each, or `None` without repeats.

    Repeats are pooled per contestant; the scatter is the machine's doing and is pooled over both.
    """
    noises, residuals, freedom = [], [], 0
    for logs in (logs_a, logs_b):
        noise = _repeat_noise(logs, rng)
        if noise is None:
            return None
        curves = [about(lengths, _medians(logs)) for about in (_about_polynomial, _about_parabola)]
        rest, degrees = min(curves, key=_variance)
        noises.append(noise)
        residuals.append(rest)
        freedom += degrees
    noise = np.concatenate(noises, axis=1)
    return np.split(noise + _scatter(np.concatenate(residuals), freedom, noise, rng), 2, axis=1)


def _repeat_noise(logs: Sequence[Array], rng: np.random.Generator) -> Array | None:
    """Errors of the log medians `[draws, points]`, or `None` if no point has two repeats."""
    pools = [
        (values - np.median(values)) * np.sqrt(len(values) / (len(values) - 1))
        for values in logs
        if len(values) > 1
    ]
    if not pools:
        return None
    pool = np.concatenate(pools)
    errors = [np.median(rng.choice(pool, size=(DRAWS, len(values))), axis=1) for values in logs]
    return np.stack(errors, axis=1)


def _scatter(residuals: Array, freedom: int, noise: Array, rng: np.random.Generator) -> Array:
    """Noise `[draws, points]` for what the residuals of a fit show beyond the repeats' noise."""
    squares, explained = residuals @ residuals, noise.var()
    if freedom < 1 or squares / freedom <= explained:
        return np.zeros_like(noise)
    variance = squares / rng.chisquare(freedom, size=len(noise))
    excess = np.sqrt(np.maximum(variance - explained, 0))
    return excess[:, None] * rng.standard_normal(noise.shape)


def _variance(curve: tuple[Array, int]) -> float:
    """Of residuals with their degrees of freedom; infinite where nothing is left to judge by."""
    residuals, freedom = curve
    return float(residuals @ residuals) / freedom if freedom else inf


def _about_polynomial(lengths: Array, medians: Array) -> tuple[Array, int]:
    """Residuals of the logs about `a + bT + cT^2`, and their degrees of freedom."""
    design = _polynomial_design(lengths, medians)
    fitted = _nonnegative(design, np.ones((1, len(lengths))))[0]
    return 1 - design @ fitted, len(lengths) - int(np.count_nonzero(fitted))


def _about_parabola(lengths: Array, medians: Array) -> tuple[Array, int]:
    """The same about a parabola in log-log, which power laws and smooth bends fit."""
    design = np.vander(np.log(lengths / lengths[0]), min(3, len(lengths)))
    return medians - design @ (np.linalg.pinv(design) @ medians), max(0, len(lengths) - 3)


def _polynomial_design(lengths: Array, medians: Array) -> Array:
    """`[points, 3]` powers of T / max(T), each row divided by its time: errors are relative."""
    powers = np.stack([(lengths / lengths.max()) ** power for power in range(3)], axis=1)
    return powers / np.exp(medians)[:, None]


def _nonnegative(design: Array, targets: Array) -> Array:
    """Non-negative least squares `[rows, 3]` of every row of `targets` `[rows, points]`.

    Exact: the optimum is the ordinary solution on the columns it uses, so the best of the
    solutions without a negative coefficient, over all sets of columns, is it.
    """
    columns = design.shape[1]
    best = np.zeros((len(targets), columns))
    least = np.square(targets).sum(axis=1)
    for count in range(1, columns + 1):
        for chosen in combinations(range(columns), count):
            part = design[:, chosen]
            solution = targets @ np.linalg.pinv(part).T
            error = np.square(targets - solution @ part.T).sum(axis=1)
            better = (solution >= 0).all(axis=1) & (error < least)
            least[better] = error[better]
            best[better] = 0
            best[np.ix_(better, chosen)] = solution[better]
    return best


def _last_roots(x: Array, ratios: Array) -> Array:
    """Where each row of `ratios` `[rows, points]` becomes negative for good.

    `-inf` for a row that is negative throughout, `inf` for one that is not at its end.
    """
    rows = np.arange(len(ratios))
    positive = ratios >= 0
    last = ratios.shape[1] - 1 - np.argmax(positive[:, ::-1], axis=1)  # last non-negative point
    after = np.minimum(last + 1, ratios.shape[1] - 1)
    here, there = ratios[rows, last], ratios[rows, after]
    with np.errstate(invalid="ignore", divide="ignore"):
        roots = x[last] + here / (here - there) * (x[after] - x[last])
    roots = np.where(positive[:, -1], np.inf, roots)
    return np.where(positive.any(axis=1), roots, -np.inf)


def _why_none(root: float, changes: int) -> str:
    if root < 0:
        return "always cheaper from the shortest length"
    if changes:
        return "cheaper at some lengths, but not at the longest"
    return "never cheaper up to the longest length"
