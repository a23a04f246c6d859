"""Laws fitted to losses whose law is known: found again, and inside their intervals as promised."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from probes.analysis.scaling_laws import (
    FLOOR,
    GRID,
    GRID_FLOOR,
    POWER,
    Law,
    Trial,
    allowed,
    fit,
    variables,
)

SIZES = np.geomspace(2.5e5, 2.5e6, 4)
BUDGETS = np.geomspace(2.5e5, 2e6, 4)

TRUE: dict[str, Callable[[float, float], float]] = {
    POWER: lambda n, d: 3.0 * (6 * n * d / 1e13) ** -0.06,
    FLOOR: lambda n, d: 1.5 + 1.5 * (6 * n * d / 1e13) ** -0.2,
    GRID: lambda n, d: 1.2 * (n / 1e6) ** -0.3 + 2.0 * (d / 1e6) ** -0.2,
    GRID_FLOOR: lambda n, d: 1.5 + 0.6 * (n / 1e6) ** -0.5 + 1.0 * (d / 1e6) ** -0.8,
}


def trials(form: str, noise: float = 0.0, seed: int = 0) -> list[Trial]:
    """Every size on every budget, or one budget per size where the law is of compute alone."""
    rng = np.random.default_rng(seed)
    pairs = [(n, d) for n in SIZES for d in BUDGETS]
    if form in (POWER, FLOOR):
        pairs = [(n, 0.5 * n) for n in np.geomspace(2e5, 8e6, 10)]
    return [
        Trial("t", f"{n:.0f}", n, d, 6 * n * d, TRUE[form](n, d) * np.exp(rng.normal(0, noise)))
        for n, d in pairs
    ]


def predicted(law: Law, n: float, d: float) -> tuple[float, np.ndarray]:
    point = variables(law.form, [Trial("", "", n, d, 6 * n * d, 1.0)]) / law.units[:, None]
    return float(law.best.loss(point)[0, 0]), law.drawn.loss(point)[:, 0]


@pytest.mark.parametrize("form", TRUE)
def test_exact_losses_give_their_law_back(form: str) -> None:
    law = fit(trials(form), draws=10)
    assert law is not None
    assert law.scatter < 1e-3
    n, d = (1e6, 1e6) if form in (GRID, GRID_FLOOR) else (1e6, 5e5)
    assert predicted(law, n, d)[0] == pytest.approx(TRUE[form](n, d), rel=1e-3)
    assert sum(law.weights.values()) == pytest.approx(1)
    if form != POWER:  # a power law is every law with a floor of zero
        assert law.form == form
    if form == FLOOR:
        assert law.best.floor[0] == pytest.approx(1.5, abs=0.01)
        assert law.best.exponents[0, 0] == pytest.approx(0.2, abs=0.002)
    if form == GRID_FLOOR:
        assert law.best.floor[0] == pytest.approx(1.5, abs=0.02)
        assert law.best.exponents[0] == pytest.approx([0.5, 0.8], abs=0.02)


def test_the_law_is_chosen_by_what_the_points_show() -> None:
    for form in (GRID, GRID_FLOOR):
        chosen = [fit(trials(form, 0.003, seed), draws=2, seed=seed) for seed in range(10)]
        assert all(law is not None and not law.by_compute for law in chosen)
    chosen = [fit(trials(POWER, 0.003, seed), draws=2, seed=seed) for seed in range(20)]
    assert sum(law is not None and law.form == POWER for law in chosen) >= 15


def test_too_few_points_allow_no_law() -> None:
    points = trials(GRID)
    assert allowed(points[:4]) == []
    assert fit(points[:4]) is None
    assert allowed(points[:8]) == [POWER, FLOOR]  # two sizes say nothing about N
    assert GRID_FLOOR in allowed(points)
    same = [points[0]] * 12
    assert allowed(same) == []


def covered(form: str, seeds: int, noise: float = 0.01) -> tuple[float, float]:
    """How often the interval of a loss within, and beyond, the measured compute holds the truth."""
    inside = beyond = 0
    for seed in range(seeds):
        law = fit(trials(form, noise, seed), draws=300, seed=seed)
        assert law is not None
        for n, d, far in ((1e6, 5e5, False), (1.6e7, 8e6, True)):
            low, high = np.percentile(predicted(law, n, d)[1], (2.5, 97.5))
            hit = low <= TRUE[form](n, d) <= high
            beyond, inside = beyond + (far and hit), inside + (not far and hit)
    return inside / seeds, beyond / seeds


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """A power law, which AICc may take for one with a floor and the other way round."""
    inside, beyond = covered(POWER, 200)
    assert 0.90 <= inside <= 0.99
    assert beyond >= 0.85


@pytest.mark.slow
@pytest.mark.parametrize("form", [FLOOR, GRID])
def test_intervals_of_richer_laws_hold_the_truth(form: str) -> None:
    inside, _ = covered(form, 200)
    assert 0.88 <= inside <= 0.995
