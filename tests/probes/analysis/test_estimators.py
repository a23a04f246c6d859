"""Synthetic times with a known answer, without noise, with it, and over many seeds."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from core.interval import Interval
from probes.analysis import bootstrap
from probes.analysis.estimators import loglog_slope, polynomial_fit

LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
SEEDS = 300


def sampled(
    curve: Callable[[int], float],
    repeats: int = 5,
    processes: int = 1,
    within: float = 0.0,
    between: float = 0.0,
    seed: int = 0,
    lengths: Sequence[int] = LENGTHS,
) -> dict[int, list[list[float]]]:
    """Repeats of `curve(T)` with log-normal noise of each repeat and of each process."""
    rng = np.random.default_rng(seed)
    return {
        length: [
            list(
                curve(length)
                * np.exp(within * rng.standard_normal(repeats) + between * rng.standard_normal())
            )
            for _ in range(processes)
        ]
        for length in lengths
    }


@pytest.fixture
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends of an interval are a little rougher with fewer resamples, and four times as fast."""
    monkeypatch.setattr(bootstrap, "DRAWS", 500)


def coverage(holds: Callable[[int], bool]) -> float:
    return sum(holds(seed) for seed in range(SEEDS)) / SEEDS


# The noise, and the largest coverage allowed: one process never knows that it has no luck, and its
# interval stays wide enough for some.
NOISES = [
    pytest.param({"within": 0.01, "between": 0.03}, 0.99, id="one process"),
    pytest.param({"within": 0.03, "between": 0.0}, 0.9975, id="one process without luck"),
    pytest.param({"within": 0.01, "between": 0.03, "processes": 5}, 0.99, id="five processes"),
]


# ---- slope ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_slope_of_a_pure_power(power: float) -> None:
    found = loglog_slope(sampled(lambda t: 3e-6 * t**power))
    assert (found.value, found.low, found.high) == pytest.approx((power, power, power), abs=1e-9)


def test_slope_sees_only_its_window() -> None:
    bent = sampled(lambda t: max(t, 2048.0))
    assert loglog_slope(bent, (2048, 8192)).value == pytest.approx(1)
    assert loglog_slope(bent, (256, 2048)).value == pytest.approx(0, abs=1e-9)
    assert 0 < loglog_slope(bent).value < 1


def test_slope_is_the_same_every_time() -> None:
    noisy = sampled(lambda t: t**1.5, within=0.05)
    assert loglog_slope(noisy) == loglog_slope(noisy)
    assert loglog_slope(noisy, seed=1).low != loglog_slope(noisy).low


def test_slope_ignores_one_slow_repeat() -> None:
    samples = sampled(lambda t: 1e-6 * t)
    samples[8192][0][0] *= 100
    assert loglog_slope(samples).value == pytest.approx(1)


@pytest.mark.parametrize(("noise", "most"), NOISES)
def test_slope_interval_covers_the_truth(
    noise: dict[str, Any], most: float, few_draws: None
) -> None:
    def holds(seed: int) -> bool:
        found = loglog_slope(sampled(lambda t: 1e-5 * t**1.3, seed=seed, **noise))
        return found.low <= 1.3 <= found.high

    assert 0.90 <= coverage(holds) <= most


def test_slope_without_enough_data() -> None:
    assert loglog_slope({256: [[1.0, 1.0]]}) == Interval()
    single = loglog_slope({256: [[1.0]], 512: [[2.0]], 1024: [[4.0]]})
    assert single.value == pytest.approx(1)
    assert single.low is None


def test_a_time_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="positive"):
        loglog_slope({256: [[1.0, 0.0]], 512: [[1.0, 1.0]]})


# ---- polynomial ----------------------------------------------------------------------------------


def test_polynomial_coefficients_come_back() -> None:
    found = polynomial_fit(sampled(lambda t: 0.01 + 1e-5 * t + 2e-9 * t * t))
    assert (found.a, found.b, found.c.value) == pytest.approx((0.01, 1e-5, 2e-9))
    assert found.c.ends == pytest.approx((2e-9, 2e-9))


def test_polynomial_has_no_negative_coefficient() -> None:
    found = polynomial_fit(sampled(lambda t: 1e-5 * t**0.5))
    assert min(found.a, found.b, found.c.value) >= 0
    assert found.c.value == 0
    assert polynomial_fit(sampled(lambda t: 1e-5 * t)).c.value == pytest.approx(0, abs=1e-16)


@pytest.mark.parametrize(("noise", "most"), NOISES)
def test_interval_of_c_covers_the_truth(
    noise: dict[str, Any], most: float, few_draws: None
) -> None:
    def holds(seed: int) -> bool:
        curve = sampled(lambda t: 0.01 + 1e-5 * t + 2e-9 * t * t, seed=seed, **noise)
        found = polynomial_fit(curve)
        return found.c.low <= 2e-9 <= found.c.high

    assert 0.90 <= coverage(holds) <= most


@pytest.mark.parametrize("noise", [pytest.param(one.values[0], id=one.id) for one in NOISES])
def test_interval_of_c_covers_zero(noise: dict[str, Any], few_draws: None) -> None:
    """The truth is at the edge of what is allowed, where the interval can miss on one side only."""
    covered = coverage(lambda seed: polynomial_fit(sampled(linear, seed=seed, **noise)).c.low == 0)
    assert 0.90 <= covered < 1


def test_polynomial_sees_only_its_window() -> None:
    bent = sampled(lambda t: 1e-5 * t if t < 2048 else 1e-5 * t * t / 1024)
    assert polynomial_fit(bent, (256, 1024)).c.value == 0
    assert polynomial_fit(bent, (2048, 8192)).c.value == pytest.approx(1e-5 / 1024)


def test_polynomial_tells_linear_from_quadratic() -> None:
    noise = {"within": 0.01, "between": 0.01}
    assert polynomial_fit(sampled(lambda t: 0.01 + 1e-5 * t, **noise)).c.low == 0
    assert polynomial_fit(sampled(lambda t: 0.01 + 1e-5 * t + 5e-9 * t * t, **noise)).c.low > 0


def test_polynomial_without_enough_data() -> None:
    assert polynomial_fit({256: [[1.0]], 512: [[2.0]]}).c == Interval()
    assert polynomial_fit({256: [[1.0]], 512: [[2.0]], 1024: [[5.0]]}).c.ends is None


def linear(t: float) -> float:
    return 0.01 + 1e-5 * t


# ---- several processes ---------------------------------------------------------------------------


def test_more_processes_narrow_an_interval_that_more_repeats_do_not() -> None:
    def width(**counts: int) -> float:
        noise = {"within": 0.01, "between": 0.03, **counts}
        found = [loglog_slope(sampled(linear, seed=seed, **noise)) for seed in range(20)]
        return float(np.median([one.high - one.low for one in found]))

    few = width(processes=3)
    assert width(processes=12) < 0.75 * few
    assert width(processes=3, repeats=20) > 0.85 * few


def test_single_repeats_of_several_processes_give_an_interval() -> None:
    found = loglog_slope(sampled(float, repeats=1, processes=5, between=0.03))
    assert found.low < 1 < found.high
