"""From raw times to estimates with an interval: slope, coefficients, and how a cost bends.

All take grouped samples (`probes.analysis.bootstrap.Samples`: length, process, repeat) and draw
their intervals, 95 % percentiles, from the bootstrap described there. With a single process per
point the error of that process is estimated by the scatter of points about a smooth curve: the
better of `a + bT + cT^2` and a parabola in log-log.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

import numpy as np

from core.interval import Interval
from probes.analysis.bootstrap import (
    Array,
    Groups,
    Samples,
    centres,
    errors,
    grouped,
    in_several_processes,
    scatter,
)
from probes.analysis.shape_fit import ROUNDING, nonnegative, powers

LEVELS = (2.5, 97.5)  # percentiles of a 95 % interval


def interval_of(value: float, drawn: Array | None) -> Interval:
    """The value with the interval of its draws `[draws]`; without ends where there are none."""
    return Interval(value) if drawn is None else Interval(value, *np.percentile(drawn, LEVELS))


@dataclass(frozen=True)
class PolynomialFit:
    """Non-negative coefficients of `a + bT + cT^2`; without numbers where lengths are too few."""

    a: float | None = None
    b: float | None = None
    c: Interval = field(default_factory=Interval)


def loglog_slope(
    samples: Samples, window: tuple[int, int] | None = None, seed: int = 0
) -> Interval:
    """Ordinary least-squares slope of log time on log length: 1 is linear, 2 is quadratic.

    `window` keeps the lengths from its first to its second number, inclusive. Needs two lengths
    for a value, and two repeats or processes for an interval.
    """
    lengths, groups = grouped(samples, window)
    if len(lengths) < 2:
        return Interval()
    design = np.stack([np.ones_like(lengths), np.log(lengths)], axis=1)
    logs = np.log(centres(samples, lengths))
    solve = np.linalg.pinv(design)
    coefficients = solve @ logs
    rng = np.random.default_rng(seed)
    noise = _noise(groups, rng, logs - design @ coefficients, len(lengths) - 2)
    drawn = None if noise is None else coefficients[1] + noise @ solve[1]
    return interval_of(coefficients[1], drawn)


def polynomial_fit(
    samples: Samples, window: tuple[int, int] | None = None, seed: int = 0
) -> PolynomialFit:
    """Fit `a + bT + cT^2` with a, b, c >= 0, minimising relative errors.

    A slope over a window mixes the fixed, linear and quadratic parts of a time; this separates
    them. Needs three lengths for values, and two repeats or processes for the interval.
    """
    lengths, groups = grouped(samples, window)
    if len(lengths) < 3:
        return PolynomialFit()
    values = centres(samples, lengths)
    design = powers(lengths, values)
    units = lengths.max() ** np.arange(3)

    def fitted(targets: Array) -> Array:
        shares = nonnegative(design, targets)
        return np.where(shares < ROUNDING * values.max(), 0, shares) / units

    a, b, c = fitted(np.ones((1, len(lengths))))[0]
    rng = np.random.default_rng(seed)
    noise = _noise(groups, rng, *_about_polynomial(lengths, values))
    drawn = None if noise is None else fitted(1 + noise)[:, 2]
    return PolynomialFit(float(a), float(b), interval_of(c, drawn))


@dataclass(frozen=True)
class Bend:
    """The departure of a cost from `a + bT` over a window."""

    share: Interval
    """`cT^2` at the longest length as a share of the cost there: 0 of a straight line. Negative of
    a cost that grows more slowly than linear."""
    local: Interval
    """Log-log slope over the longest lengths, after taking `a` off: 1 of a straight line."""


LONGEST = 3  # lengths, for the local slope


def bend(samples: Samples, window: tuple[int, int] | None = None, seed: int = 0) -> Bend | None:
    """Fit `a + bT + cT^2` with relative errors and a >= 0, b and c free.

    `None` with fewer than four lengths: three leave nothing to judge the fit by.
    """
    lengths, groups = grouped(samples, window)
    if len(lengths) < 4:
        return None
    values = centres(samples, lengths)
    design = powers(lengths, values)
    tail = np.log(lengths[-LONGEST:])
    weights = (tail - tail.mean()) / np.square(tail - tail.mean()).sum()

    def judged(targets: Array) -> tuple[Array, Array]:
        """Shares and local slopes of rows of relative values `[rows, points]`."""
        free = targets @ np.linalg.pinv(design).T
        bound = targets @ np.linalg.pinv(design[:, 1:]).T
        fixed = np.maximum(free[:, 0], 0)
        b = np.where(free[:, 0] > 0, free[:, 1], bound[:, 0])
        c = np.where(free[:, 0] > 0, free[:, 2], bound[:, 1])
        rest = targets[:, -LONGEST:] * values[-LONGEST:] - fixed[:, None]
        logs = np.log(np.maximum(rest, ROUNDING * values[-1]))
        return c / (fixed + b + c), logs @ weights

    share, local = (float(row[0]) for row in judged(np.ones((1, len(lengths)))))
    noise = _noise(groups, np.random.default_rng(seed), *_about_polynomial(lengths, values))
    if noise is None:
        return Bend(Interval(share), Interval(local))
    shares, locals_ = judged(np.exp(noise))
    return Bend(interval_of(share, shares), interval_of(local, locals_))


def _noise(
    groups: Groups, rng: np.random.Generator, residuals: Array, freedom: int
) -> Array | None:
    """Errors of the log values; those of single processes come from the residuals of a fit."""
    noise = errors(groups, rng)
    if noise is None or in_several_processes(groups):
        return noise
    return noise + scatter(residuals, freedom, noise, rng)


def about_smooth(lengths: Array, values: Array) -> tuple[Array, int]:
    """Residuals of the logs about the smooth curve that fits better, and degrees of freedom: a
    polynomial, or a parabola in log-log, which power laws and smooth bends fit."""
    design, logs = np.vander(np.log(lengths / lengths[0]), min(3, len(lengths))), np.log(values)
    parabola = logs - design @ (np.linalg.pinv(design) @ logs), max(0, len(lengths) - 3)

    def variance(curve: tuple[Array, int]) -> float:
        residuals, freedom = curve
        return float(residuals @ residuals) / freedom if freedom else inf

    return min(_about_polynomial(lengths, values), parabola, key=variance)


def _about_polynomial(lengths: Array, values: Array) -> tuple[Array, int]:
    """Residuals of the logs about `a + bT + cT^2`, and their degrees of freedom."""
    design = powers(lengths, values)
    fitted = nonnegative(design, np.ones((1, len(lengths))))[0]
    return 1 - design @ fitted, len(lengths) - int(np.count_nonzero(fitted))
