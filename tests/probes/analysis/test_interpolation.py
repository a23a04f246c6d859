"""Roots of monotone cubics."""

import numpy as np
import pytest

from probes.analysis.interpolation import root, tangents


def test_a_straight_line_is_met_exactly() -> None:
    x = np.array([0.0, 1.0, 3.0, 4.0])
    rows = np.array([2.5 - x, x - 0.25])
    assert root(x, rows, np.array([1, 0])) == pytest.approx([2.5, 0.25])


def test_a_smooth_curve_is_met_closely() -> None:
    x = np.linspace(0, 4, 9)
    found = root(x, np.cos(x)[None], np.array([3]))
    assert found == pytest.approx([np.pi / 2], abs=0.003)


def test_between_two_points_it_stays_between_their_values() -> None:
    rng = np.random.default_rng(0)
    x = np.cumsum(rng.uniform(0.2, 2, 8))
    rows = rng.standard_normal((200, 8))
    slopes = tangents(x, rows)
    secants = np.diff(rows, axis=1) / np.diff(x)
    # Sufficient for a monotone cubic: tangents of the secant's sign and at most three times it.
    for side in (slopes[:, :-1], slopes[:, 1:]):
        assert (side * secants >= 0).all()
        assert (np.abs(side) <= 3 * np.abs(secants) + 1e-12).all()


def test_two_points_are_a_line() -> None:
    found = root(np.array([0.0, 1.0]), np.array([[1.0, -3.0]]), np.array([0]))
    assert found == pytest.approx([0.25])
