"""Roots of curves known at a few points: a monotone cubic between them, and bisection."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from probes.analysis.bootstrap import Array

HALVINGS = 40  # of the gap between two points


def root(x: Array, ratios: Array, before: NDArray[np.signedinteger]) -> Array:
    """Where each row of `ratios` `[rows, points]` changes sign between point `before` and the next.

    The cubic rises or falls from point to point as the data do, so that is at one place.
    """
    rows, after = np.arange(len(ratios)), before + 1
    step = x[after] - x[before]
    start, end = ratios[rows, before], ratios[rows, after]
    slopes = tangents(x, ratios)
    leave, arrive = slopes[rows, before] * step, slopes[rows, after] * step
    down = np.where(end < 0, 1.0, -1.0)
    low, high = np.zeros(len(ratios)), np.ones(len(ratios))
    for _ in range(HALVINGS):
        at = (low + high) / 2
        rest = 1 - at
        value = rest**2 * ((1 + 2 * at) * start + at * leave)
        value += at**2 * ((1 + 2 * rest) * end - rest * arrive)
        ahead = down * value >= 0
        low, high = np.where(ahead, at, low), np.where(ahead, high, at)
    return x[before] + (low + high) / 2 * step


def tangents(x: Array, values: Array) -> Array:
    """Slopes `[rows, points]` of the monotone cubic through every row (Fritsch and Butland 1984).

    Inside, the weighted harmonic mean of the secants on both sides, 0 at a peak; at the ends, a
    parabola through three points, held back where it would overshoot.
    """
    steps = np.diff(x)
    secants = np.diff(values, axis=1) / steps
    if len(steps) == 1:
        return np.repeat(secants, 2, axis=1)
    left, right = secants[:, :-1], secants[:, 1:]
    near, far = 2 * steps[1:] + steps[:-1], steps[1:] + 2 * steps[:-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = (near + far) / (near / left + far / right)
    inner = np.where(left * right > 0, mean, 0)
    first = _end(steps[0], steps[1], secants[:, 0], secants[:, 1])
    last = _end(steps[-1], steps[-2], secants[:, -1], secants[:, -2])
    return np.column_stack([first, inner, last])


def _end(near: float, far: float, secant: Array, next_secant: Array) -> Array:
    slope = ((2 * near + far) * secant - near * next_secant) / (near + far)
    slope = np.where(
        (secant * next_secant < 0) & (np.abs(slope) > 3 * np.abs(secant)), 3 * secant, slope
    )
    return np.where(slope * secant <= 0, 0, slope)
