"""Synthetic times with a known answer, without noise, with it, and over many seeds."""

import math

import numpy as np
import pytest

from probes import bootstrap
from probes.statistics import crossover, loglog_slope, polynomial_fit

LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
SEEDS = 300


def sampled(curve, repeats=5, processes=1, within=0.0, between=0.0, seed=0, lengths=LENGTHS):
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
def few_draws(monkeypatch):
    """Ends of an interval are a little rougher with fewer resamples, and four times as fast."""
    monkeypatch.setattr(bootstrap, "DRAWS", 500)


def coverage(holds) -> float:
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
def test_slope_of_a_pure_power(power):
    found = loglog_slope(sampled(lambda t: 3e-6 * t**power))
    assert (found.value, found.low, found.high) == pytest.approx((power, power, power), abs=1e-9)


def test_slope_sees_only_its_window():
    bent = sampled(lambda t: max(t, 2048.0))
    assert loglog_slope(bent, (2048, 8192)).value == pytest.approx(1)
    assert loglog_slope(bent, (256, 2048)).value == pytest.approx(0, abs=1e-9)
    assert 0 < loglog_slope(bent).value < 1


def test_slope_is_the_same_every_time():
    noisy = sampled(lambda t: t**1.5, within=0.05)
    assert loglog_slope(noisy) == loglog_slope(noisy)
    assert loglog_slope(noisy, seed=1).low != loglog_slope(noisy).low


def test_slope_ignores_one_slow_repeat():
    samples = sampled(lambda t: 1e-6 * t)
    samples[8192][0][0] *= 100
    assert loglog_slope(samples).value == pytest.approx(1)


@pytest.mark.parametrize(("noise", "most"), NOISES)
def test_slope_interval_covers_the_truth(noise, most, few_draws):
    def holds(seed: int) -> bool:
        found = loglog_slope(sampled(lambda t: 1e-5 * t**1.3, seed=seed, **noise))
        return found.low <= 1.3 <= found.high

    assert 0.90 <= coverage(holds) <= most


def test_slope_without_enough_data():
    assert math.isnan(loglog_slope({256: [[1.0, 1.0]]}).value)
    single = loglog_slope({256: [[1.0]], 512: [[2.0]], 1024: [[4.0]]})
    assert single.value == pytest.approx(1)
    assert math.isnan(single.low)


def test_a_time_of_zero_is_refused():
    with pytest.raises(ValueError, match="positive"):
        loglog_slope({256: [[1.0, 0.0]], 512: [[1.0, 1.0]]})


# ---- polynomial ----------------------------------------------------------------------------------


def test_polynomial_coefficients_come_back():
    found = polynomial_fit(sampled(lambda t: 0.01 + 1e-5 * t + 2e-9 * t * t))
    assert (found.a, found.b, found.c) == pytest.approx((0.01, 1e-5, 2e-9))
    assert (found.c_low, found.c_high) == pytest.approx((2e-9, 2e-9))


def test_polynomial_has_no_negative_coefficient():
    found = polynomial_fit(sampled(lambda t: 1e-5 * t**0.5))
    assert min(found.a, found.b, found.c) >= 0
    assert found.c == 0
    assert polynomial_fit(sampled(lambda t: 1e-5 * t)).c == pytest.approx(0, abs=1e-16)


@pytest.mark.parametrize(("noise", "most"), NOISES)
def test_interval_of_c_covers_the_truth(noise, most, few_draws):
    def holds(seed: int) -> bool:
        curve = sampled(lambda t: 0.01 + 1e-5 * t + 2e-9 * t * t, seed=seed, **noise)
        found = polynomial_fit(curve)
        return found.c_low <= 2e-9 <= found.c_high

    assert 0.90 <= coverage(holds) <= most


@pytest.mark.parametrize("noise", [pytest.param(one.values[0], id=one.id) for one in NOISES])
def test_interval_of_c_covers_zero(noise, few_draws):
    """The truth is at the edge of what is allowed, where the interval can miss on one side only."""
    covered = coverage(lambda seed: polynomial_fit(sampled(linear, seed=seed, **noise)).c_low == 0)
    assert 0.90 <= covered < 1


def test_polynomial_sees_only_its_window():
    bent = sampled(lambda t: 1e-5 * t if t < 2048 else 1e-5 * t * t / 1024)
    assert polynomial_fit(bent, (256, 1024)).c == 0
    assert polynomial_fit(bent, (2048, 8192)).c == pytest.approx(1e-5 / 1024)


def test_polynomial_tells_linear_from_quadratic():
    noise = {"within": 0.01, "between": 0.01}
    assert polynomial_fit(sampled(lambda t: 0.01 + 1e-5 * t, **noise)).c_low == 0
    assert polynomial_fit(sampled(lambda t: 0.01 + 1e-5 * t + 5e-9 * t * t, **noise)).c_low > 0


def test_polynomial_without_enough_data():
    assert math.isnan(polynomial_fit({256: [[1.0]], 512: [[2.0]]}).c)
    assert math.isnan(polynomial_fit({256: [[1.0]], 512: [[2.0]], 1024: [[5.0]]}).c_low)


# ---- crossover -----------------------------------------------------------------------------------


def linear(t: float) -> float:
    return 0.01 + 1e-5 * t


def quadratic(t: float) -> float:
    """Cheaper than `linear` below about 1536."""
    return 0.006 + 8e-6 * t + 3e-9 * t * t


TRUE_CROSSING = 1000 * (1 + math.sqrt(13)) / 3  # 3e-9 T^2 - 2e-6 T - 4e-3 = 0


def test_crossover_of_power_laws_is_exact():
    a = sampled(lambda t: 1e-3 * t)
    b = sampled(lambda t: 1e-3 * t * (t / 1700) ** 0.4)
    found = crossover(a, b)
    assert found.length == pytest.approx(1700)
    assert (found.low, found.high) == pytest.approx((1700, 1700))
    assert found.crossing == 1
    assert found.crossings == 1


@pytest.mark.parametrize(("noise", "most"), NOISES)
def test_crossover_interval_covers_the_truth(noise, most, few_draws):
    def holds(seed: int) -> bool:
        found = crossover(
            sampled(linear, seed=2 * seed, **noise), sampled(quadratic, seed=2 * seed + 1, **noise)
        )
        return (found.low or 0) <= TRUE_CROSSING <= (found.high or math.inf)

    assert 0.90 <= coverage(holds) <= most


def test_crossover_of_smooth_curves_needs_few_lengths():
    found = crossover(sampled(linear), sampled(quadratic))
    assert found.length == pytest.approx(TRUE_CROSSING, rel=0.003)


@pytest.mark.parametrize(
    ("factor", "words"),
    [(0.5, "always cheaper from the shortest"), (2.0, "never cheaper up to the longest")],
)
def test_none_in_range(factor, words):
    found = crossover(sampled(lambda t: factor * t, within=0.01), sampled(float, within=0.01))
    assert found.length is None
    assert found.length is found.low is found.high is None
    assert words in found.reason
    assert found.crossings == found.crossing == 0


def test_cheaper_in_the_middle_only_is_not_a_crossover():
    factors = dict(zip(LENGTHS, (2, 2, 0.5, 0.5, 2, 2), strict=True))
    found = crossover(sampled(lambda t: factors[t] * t), sampled(float))
    assert found.length is None
    assert found.crossings == 2
    assert "not at the longest" in found.reason


def test_of_several_crossings_the_last_counts():
    factors = dict(zip(LENGTHS, (2, 0.5, 2, 2, 0.5, 0.5), strict=True))
    found = crossover(sampled(lambda t: factors[t] * t), sampled(float))
    assert found.crossings == 3
    assert found.length == pytest.approx(2048 * 2**0.5)
    assert found.places[-1] == found.length
    assert 256 < found.places[0] < 512 < found.places[1] < 1024
    assert "last of 3" in found.reason


def test_an_end_beyond_the_measured_range_is_censored():
    """A crossing so close to the last length that noise often hides it."""
    a = sampled(lambda t: t, within=0.05)
    b = sampled(lambda t: t * (t / 7900) ** 0.5, within=0.05, seed=1)
    found = crossover(a, b)
    assert found.length == pytest.approx(7900, rel=0.1)
    assert 4096 < found.low < found.length
    assert found.high is None
    assert 0.5 < found.crossing < 0.975
    assert "one crossing" in found.reason and "% of the resamples cross" in found.reason


def test_resamples_that_cross_are_mentioned():
    a = sampled(lambda t: t, within=0.05)
    b = sampled(lambda t: t * (t / 9000) ** 0.5, within=0.05, seed=1)
    found = crossover(a, b)
    assert found.length is None
    assert 0.025 < found.crossing < 0.5
    assert f"{found.crossing:.0%} of the resamples do cross" in found.reason
    # It may still lie inside the range, but no resample says how far beyond.
    assert found.low is not None and found.high is None


def test_crossover_without_repeats_or_shared_lengths():
    a, b = sampled(lambda t: t, repeats=1), sampled(lambda t: t * t / 1000, repeats=1)
    found = crossover(a, b)
    assert found.length == pytest.approx(1000)
    assert found.low is found.high is None
    assert crossover({256: [[1.0]]}, {512: [[1.0]]}).length is None
    only = crossover(a, {length: b[length] for length in (512, 2048)})
    assert only.length == pytest.approx(1000)


def test_one_contestant_in_several_processes_is_compared_with_one_in_one():
    noise = {"within": 0.01, "between": 0.03}
    both = crossover(sampled(linear, **noise), sampled(quadratic, processes=5, seed=1, **noise))
    assert both.low < both.length < both.high


# ---- several processes ---------------------------------------------------------------------------

ESTIMATES = {
    "slope": lambda a, b: loglog_slope(a),
    "crossover": crossover,
}


@pytest.mark.parametrize("estimate", ESTIMATES.values(), ids=ESTIMATES)
def test_more_processes_narrow_an_interval_that_more_repeats_do_not(estimate):
    def width(**counts) -> float:
        noise = {"within": 0.01, "between": 0.03, **counts}
        widths = []
        for seed in range(20):
            first = sampled(linear, seed=2 * seed, **noise)
            found = estimate(first, sampled(quadratic, seed=2 * seed + 1, **noise))
            widths.append(math.log(found.high / found.low))
        return float(np.median(widths))

    few = width(processes=3)
    assert width(processes=12) < 0.75 * few
    assert width(processes=3, repeats=20) > 0.85 * few


def test_single_repeats_of_several_processes_give_an_interval():
    found = loglog_slope(sampled(float, repeats=1, processes=5, between=0.03))
    assert found.low < 1 < found.high
