"""Comparisons from curves whose answer is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from probes.analysis import crossovers
from probes.analysis.crossovers import MEASURES, Comparison, Curve
from probes.analysis.dataset import Series
from tests.probes.synthetic import LENGTHS, TRAIN_CROSSOVER, failed, make_row

TRAIN, TRAIN_FIXED, *_ = MEASURES
BY_KEY = {measure.key: measure for measure in MEASURES}
Cost = Callable[[int], float]


def made(model: str, cost: Cost, lengths: tuple[int, ...] = LENGTHS, processes: int = 1) -> Curve:
    """A training curve with three repeats per process."""
    rows = tuple(
        make_row(model, "train", t, process=p,
                 seconds=[cost(t) * luck * x for x in (1, 1, 1.001)])
        for t in lengths for p, luck in zip(range(processes), (1, 1.002, 0.999), strict=False)
    )  # fmt: skip
    return crossovers.curve(Series(model, model, rows), TRAIN)


def against_one(cost: Cost) -> Comparison:
    """RWKV at `cost` against attention at a constant second, in three processes."""
    other = made("gpt", lambda t: 1.0, processes=3)
    return crossovers.find(made("rwkv4", cost, processes=3), other, TRAIN)


@pytest.mark.parametrize(
    ("kind", "cost", "places"),
    [
        ("crosses", lambda t: 1000 / t, [1000]),
        ("reverse", lambda t: t / 1000, [1000]),
        ("always", lambda t: 0.5, []),
        ("never", lambda t: 2.0, []),
        ("equal", lambda t: 1.0, []),
        ("several", lambda t: 2.0 if t in (256, 2048) else 0.5, [326, 1448, 2896]),
    ],
)
def test_kinds_of_finding(kind: str, cost: Cost, places: list[float]) -> None:
    found = against_one(cost)
    assert found.kind == kind
    assert [one.value for one in found.crossings] == pytest.approx(places, rel=0.01)
    if kind in ("crosses", "reverse"):
        crossing = found.crossings[0]
        assert crossing.low is not None and crossing.high is not None
        assert crossing.low <= crossing.number * 1.0001
        assert crossing.high >= crossing.number * 0.9999
    # The crossover is where the RWKV becomes the cheaper one for good.
    assert (found.crossover is not None) == (kind in ("crosses", "several"))


def test_too_few_shared_lengths_is_missing() -> None:
    short = made("gpt", lambda t: 1.0, (256,))
    assert crossovers.find(made("rwkv4", lambda t: 2.0), short, TRAIN).kind == "missing"


def test_known_crossover_lies_in_its_interval() -> None:
    curves = [
        crossovers.curve(Series(who, who, tuple(make_row(who, "train", t) for t in LENGTHS)), TRAIN)
        for who in ("rwkv4", "gpt")
    ]
    crossing = crossovers.find(*curves, TRAIN).crossover
    assert crossing is not None and crossing.low is not None and crossing.high is not None
    assert crossing.number == pytest.approx(TRAIN_CROSSOVER, rel=0.02)
    assert crossing.low < crossing.number < crossing.high


def test_units_of_values() -> None:
    row = make_row("gpt", "train", 512, sweep="fixed_tokens", batch=16, seconds=[8.192])
    series = Series("gpt", "gpt", (row, make_row("gpt", "decode", 512, seconds=[0.25])))
    assert crossovers.curve(series, TRAIN_FIXED).points[0].values == (8.192 / 16 / 512,)
    assert crossovers.curve(series, BY_KEY["decode"]).points[0].values == (0.25,)
    assert crossovers.curve(series, BY_KEY["state"]).points[0].values == (36_864 * 512,)
    assert crossovers.curve(series, TRAIN).points == ()


def test_a_repeated_point_counts_once_and_a_failed_one_is_kept() -> None:
    rows = (
        failed("gpt", "train", 512, "timeout"),
        make_row("gpt", "train", 512, seconds=[3.0]),
        failed("gpt", "train", 1024, "oom"),
    )
    curve = crossovers.curve(Series("gpt", "gpt", rows), TRAIN)
    assert [(point.length, point.status) for point in curve.points] == [(512, "ok"), (1024, "oom")]
    assert curve.measured[512].values == (3.0,)


def test_processes_of_a_point_are_kept_apart() -> None:
    rows = [
        make_row("gpt", "train", 512, seconds=[float(p), p + 1.0], process=p) for p in (1, 5, 2)
    ]
    again = make_row("gpt", "train", 512, seconds=[3.0, 4.0, 5.0], process=5)
    point = crossovers.curve(Series("gpt", "gpt", (*rows, again)), TRAIN).measured[512]
    assert point.processes == {1: (1, 2), 2: (2, 3), 5: (3, 4, 5)}
    assert point.value == pytest.approx(1.75)
    assert point.values == (1, 2, 2, 3, 3, 4, 5)


def test_a_point_fails_with_any_of_its_processes() -> None:
    rows = (
        make_row("gpt", "train", 512, process=0),
        failed("gpt", "train", 512, "timeout", process=1),
    )
    (point,) = crossovers.curve(Series("gpt", "gpt", rows), TRAIN).points
    assert (point.status, point.processes) == ("timeout", {})


def test_memory_in_several_processes_has_an_interval() -> None:
    rng = np.random.default_rng(0)
    all_series = {
        who: Series(who, who, tuple(
            make_row(who, "train", t, process=p, peak_bytes=int(cost(t) * rng.normal(1, 0.01)))
            for t in LENGTHS for p in range(5)
        ))
        for who, cost in (("rwkv4", lambda t: 1e8 + 1e4 * t), ("gpt", lambda t: 5e7 + 3e4 * t))
    }  # fmt: skip
    memory = BY_KEY["memory"]
    curves = [crossovers.curve(series, memory) for series in all_series.values()]
    crossing = crossovers.find(*curves, memory).crossover
    assert crossing is not None and crossing.low is not None and crossing.high is not None
    assert crossing.low < 2500 < crossing.high
    assert crossing.high < 1.2 * crossing.low


def test_multiplicity() -> None:
    found = against_one(lambda t: 2.0 if t in (256, 2048) else 0.5)
    assert len(found.crossings) == 3
    assert found.note == "3 decided changes of side"


@pytest.mark.parametrize(("power", "linear"), [(1, True), (2, False), (0, False)])
def test_slope_and_the_claim_of_linearity(power: int, linear: bool) -> None:
    slope = crossovers.slope(made("gpt", lambda t: 1e-6 * t**power), TRAIN, (512, 4096))
    assert slope is not None and slope.exponent.low is not None and slope.exponent.high is not None
    assert slope.exponent.value == pytest.approx(power, abs=0.01)
    assert slope.exponent.low <= power <= slope.exponent.high
    assert slope.window == (512, 4096)
    assert slope.linear is linear
    assert slope.growth is None  # six points


def test_linear_needs_no_quadratic_part_and_allows_a_fixed_one() -> None:
    """A fixed and a quadratic part can give a slope of 1 together."""

    def slope(cost: Cost, noise: float) -> crossovers.Slope:
        rng = np.random.default_rng(0)
        rows = tuple(
            make_row("gpt", "train", t, process=p, seconds=list(cost(t) * rng.normal(1, noise, 5)))
            for t in LENGTHS for p in range(5)
        )  # fmt: skip
        found = crossovers.slope(
            crossovers.curve(Series("gpt", "gpt", rows), TRAIN), TRAIN, (512, 8192)
        )
        assert found is not None and found.exponent.ends is not None
        return found

    straight = slope(lambda t: 1e-3 * t, 0.01)
    assert straight.linear and straight.exponent.low <= 1 <= straight.exponent.high
    assert straight.quadratic.c.low == 0
    assert straight.growth is not None and straight.growth.best == "a + bT"

    bent = slope(lambda t: 0.28 + 1e-3 * t + 6.68e-8 * t * t, 0.002)
    assert bent.exponent.low <= 1 <= bent.exponent.high
    assert bent.quadratic.c.low > 0
    assert not bent.linear

    fixed = slope(lambda t: 1 + 1e-3 * t, 0.01)
    assert fixed.quadratic.c.low == 0
    assert fixed.exponent.high < 1 and fixed.linear


def test_an_interval_that_tells_nothing_claims_nothing() -> None:
    rng = np.random.default_rng(0)
    rows = tuple(
        make_row("gpt", "train", t, seconds=list(t * np.exp(rng.normal(0, 1.5, 5))))
        for t in LENGTHS
    )
    slope = crossovers.slope(
        crossovers.curve(Series("gpt", "gpt", rows), TRAIN), TRAIN, (512, 4096)
    )
    assert slope is not None and slope.exponent.low is not None and slope.exponent.high is not None
    assert slope.exponent.low <= 1 <= slope.exponent.high
    assert slope.exponent.low < 0 or slope.exponent.high > 2
    assert not slope.linear


def test_slope_needs_three_lengths_and_repeats_for_an_interval() -> None:
    curve = made("gpt", lambda t: 1e-6 * t)
    assert crossovers.slope(curve, TRAIN, (4096, 8192)) is None
    rows = tuple(make_row("gpt", "decode", t) for t in LENGTHS)
    cache = crossovers.slope(
        crossovers.curve(Series("gpt", "gpt", rows), BY_KEY["state"]), BY_KEY["state"], (256, 8192)
    )
    assert cache is not None
    assert cache.exponent.value == pytest.approx(1)
    assert cache.exponent.low is None and not cache.linear


def test_slope_of_a_per_token_cost_is_given_per_sequence() -> None:
    rows = tuple(
        make_row("gpt", "train", t, sweep="fixed_tokens", batch=8192 // t, seconds=[1.0, 1.001])
        for t in LENGTHS
    )
    slope = crossovers.slope(
        crossovers.curve(Series("gpt", "gpt", rows), TRAIN_FIXED), TRAIN_FIXED, (1, 9999)
    )
    assert slope is not None and slope.exponent.value == pytest.approx(1, abs=0.01)
