"""From raw times to statements with an interval: slope, curvature, crossover length.

All take grouped samples (`probes.bootstrap.Samples`: length, process, repeat) and draw their
intervals, 95 % percentiles, from the bootstrap described there, which resamples processes and the
repeats within them. With a single process per point its luck is judged by the scatter of points
about a smooth curve: about the fitted line or polynomial, and for the crossover about the better of
`a + bT + cT^2` and a parabola in log-log.

An interval does not cover the error of interpolating between two measured lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, nan

import numpy as np

from probes.bootstrap import (
    Array,
    Groups,
    Samples,
    errors,
    grouped,
    in_several_processes,
    medians,
    scatter,
)
from probes.growth import ROUNDING, nonnegative, powers
from probes.interpolation import last_roots, root

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
    """95 % interval over all resamples, also those without a crossover. An end is `None` where it
    is censored, that is outside the measured lengths, and both are with a single value per point.
    Without a length, an end that is a number says how far into the range one may lie."""
    places: tuple[float, ...]
    """All lengths at which the measured ratio changes sides, in ascending order."""
    crossing: float | None
    """Share of the resamples that have a crossover in range; `None` without resamples."""
    reason: str
    """In words: why there is none, or what to know about the one there is."""

    @property
    def crossings(self) -> int:
        """The multiplicity: how often the measured ratio changes sides."""
        return len(self.places)


def loglog_slope(
    samples: Samples, window: tuple[int, int] | None = None, seed: int = 0
) -> Estimate:
    """Ordinary least-squares slope of log time on log length: 1 is linear, 2 is quadratic.

    `window` keeps the lengths from its first to its second number, inclusive. Needs two lengths
    for a value, and two repeats or processes for an interval.
    """
    lengths, groups = grouped(samples, window)
    if len(lengths) < 2:
        return Estimate(nan, nan, nan)
    design = np.stack([np.ones_like(lengths), np.log(lengths)], axis=1)
    logs = np.log(medians(samples, lengths))
    solve = np.linalg.pinv(design)
    coefficients = solve @ logs
    rng = np.random.default_rng(seed)
    noise = errors(groups, rng)
    if noise is None:
        return Estimate(float(coefficients[1]), nan, nan)
    if not in_several_processes(groups):
        noise += scatter(logs - design @ coefficients, len(lengths) - 2, noise, rng)
    low, high = np.percentile(coefficients[1] + noise @ solve[1], LEVELS)
    return Estimate(float(coefficients[1]), float(low), float(high))


def polynomial_fit(
    samples: Samples, window: tuple[int, int] | None = None, seed: int = 0
) -> PolynomialFit:
    """Fit `a + bT + cT^2` with a, b, c >= 0, minimising relative errors.

    A slope over a window mixes the fixed, linear and quadratic parts of a time; this separates
    them. Needs three lengths for values, and two repeats or processes for the interval.
    """
    lengths, groups = grouped(samples, window)
    if len(lengths) < 3:
        return PolynomialFit(nan, nan, nan, nan, nan)
    values = medians(samples, lengths)
    design = powers(lengths, values)
    units = lengths.max() ** np.arange(3)

    def fitted(targets: Array) -> Array:
        shares = nonnegative(design, targets)
        return np.where(shares < ROUNDING * values.max(), 0, shares) / units

    a, b, c = fitted(np.ones((1, len(lengths))))[0]
    rng = np.random.default_rng(seed)
    noise = errors(groups, rng)
    if noise is None:
        return PolynomialFit(float(a), float(b), float(c), nan, nan)
    if not in_several_processes(groups):
        noise += scatter(*_about_polynomial(lengths, values), noise, rng)
    low, high = np.percentile(fitted(1 + noise)[:, 2], LEVELS)
    return PolynomialFit(float(a), float(b), float(c), float(low), float(high))


def crossover(samples_a: Samples, samples_b: Samples, seed: int = 0) -> Crossover:
    """Where A becomes cheaper than B for good, over the lengths measured for both.

    The log of the ratio of medians is interpolated in log length by a monotone cubic (Fritsch and
    Carlson 1980), which adds no crossing of its own; its last root, after which A stays cheaper up
    to the longest length, is the crossover.
    """
    shared = sorted(set(samples_a) & set(samples_b))
    if not shared:
        return Crossover(None, None, None, (), None, "no length was measured for both")
    lengths, groups_a = grouped({length: samples_a[length] for length in shared})
    _, groups_b = grouped({length: samples_b[length] for length in shared})
    values = medians(samples_a, lengths), medians(samples_b, lengths)
    x, ratio = np.log(lengths), np.log(values[0] / values[1])
    changes = np.flatnonzero(np.diff(ratio >= 0))
    places = np.exp(root(x, np.tile(ratio, (len(changes), 1)), changes)).tolist()
    last = float(last_roots(x, ratio[None])[0])
    noise = _noise_of_both(lengths, (groups_a, groups_b), values, np.random.default_rng(seed))
    low = high = crossing = None
    if noise is not None:
        drawn = last_roots(x, ratio + noise[0] - noise[1])
        crossing = float(np.mean(np.isfinite(drawn)))
        # Whole draws, not interpolated: between a number and infinity there is no percentile.
        ends = np.percentile(drawn, LEVELS, method="nearest")
        low, high = (float(np.exp(end)) if np.isfinite(end) else None for end in ends)
    length = None if np.isinf(last) else float(np.exp(last))
    reason = _reason(last, len(places), crossing)
    return Crossover(length, low, high, tuple(places), crossing, reason)


def _noise_of_both(
    lengths: Array, both: Sequence[Groups], values: Sequence[Array], rng: np.random.Generator
) -> list[Array] | None:
    """Errors of the log medians, `[draws, points]` of each, or `None` without repeats.

    Noise is pooled per contestant; the scatter that stands for the luck of single processes is the
    machine's doing and is pooled over those that need it.
    """
    noises = []
    for groups in both:
        noise = errors(groups, rng)
        if noise is None:
            return None
        noises.append(noise)
    single = [i for i, groups in enumerate(both) if not in_several_processes(groups)]
    if single:
        curves = [
            min(
                _about_polynomial(lengths, values[i]),
                _about_parabola(lengths, values[i]),
                key=_variance,
            )
            for i in single
        ]
        residuals = np.concatenate([rest for rest, _ in curves])
        freedom = sum(degrees for _, degrees in curves)
        noise = np.concatenate([noises[i] for i in single], axis=1)
        extra = np.split(scatter(residuals, freedom, noise, rng), len(single), axis=1)
        for i, one in zip(single, extra, strict=True):
            noises[i] = noises[i] + one
    return noises


def _variance(curve: tuple[Array, int]) -> float:
    """Of residuals with their degrees of freedom; infinite where nothing is left to judge by."""
    residuals, freedom = curve
    return float(residuals @ residuals) / freedom if freedom else inf


def _about_polynomial(lengths: Array, values: Array) -> tuple[Array, int]:
    """Residuals of the logs about `a + bT + cT^2`, and their degrees of freedom."""
    design = powers(lengths, values)
    fitted = nonnegative(design, np.ones((1, len(lengths))))[0]
    return 1 - design @ fitted, len(lengths) - int(np.count_nonzero(fitted))


def _about_parabola(lengths: Array, values: Array) -> tuple[Array, int]:
    """The same about a parabola in log-log, which power laws and smooth bends fit."""
    design, logs = np.vander(np.log(lengths / lengths[0]), min(3, len(lengths))), np.log(values)
    return logs - design @ (np.linalg.pinv(design) @ logs), max(0, len(lengths) - 3)


def _reason(last: float, changes: int, crossing: float | None) -> str:
    share = "" if crossing is None else f"{crossing:.0%} of the resamples"
    if np.isfinite(last):
        told = "one crossing" if changes == 1 else f"the last of {changes} crossings"
        return told if crossing is None or crossing > 0.995 else f"{told} ({share} cross)"
    if last < 0:
        told = "always cheaper from the shortest length"
    elif changes:
        told = "cheaper at some lengths, but not at the longest"
    else:
        told = "never cheaper up to the longest length"
    return f"{told} ({share} do cross)" if crossing and crossing >= 0.005 else told
