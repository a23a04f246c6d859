"""Verdicts on sweeps of known truth: right or not decided, and never surer than the data."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.statistics_study import (
    CROSSING,
    GROWTHS,
    NOISES,
    Noise,
    called_linear,
    compared,
    verdicts,
)
from probes.analysis import bootstrap
from probes.analysis.crossovers import EXACT, PEAK, TIME, is_linear, kind_of
from probes.analysis.estimators import bend
from probes.analysis.ratios import ABOVE, BELOW, EQUAL, UNDECIDED, Resolution, ratios

LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
JITTER = {32: 1, 64: -1, 128: 1, 256: -1}  # MiB
QUIET = Noise("quiet", processes=5)


def repeated(values: list[float], processes: int = 3) -> dict[int, dict[int, list[float]]]:
    """The same values of every process, by length."""
    found = zip(LENGTHS, values, strict=False)
    return {length: {p: [value] * 3 for p in range(processes)} for length, value in found}


@pytest.fixture
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends of intervals are a little rougher, and the tests four times as fast."""
    monkeypatch.setattr(bootstrap, "DRAWS", 500)


@pytest.mark.parametrize("noise", NOISES, ids=lambda noise: noise.name)
def test_verdicts_are_right_or_not_decided(noise: Noise, few_draws: None) -> None:
    """Goals of docs/statistics.md: 95 % of sweeps, and decided in 80 % unless most is disturbed."""
    seeds = 12
    for truth in ("crosses", "25 % apart"):
        _, undecided, wrong, _ = verdicts(truth, noise, seeds)
        assert wrong <= 0.05
        assert undecided <= (0.25 if noise.contamination <= 0.3 else 1)


@pytest.mark.parametrize(
    "name", ["quiet", "quiet, 1 process", "5 % of the processes in bursts", "drift of 20 %"]
)
def test_intervals_of_crossings_hold(name: str, few_draws: None) -> None:
    (noise,) = (one for one in NOISES if one.name == name)
    right, _, _, holds = verdicts("crosses", noise, 40)
    assert right >= 0.9
    assert holds >= 0.85


@pytest.mark.parametrize("noise", NOISES, ids=lambda noise: noise.name)
def test_curves_two_per_cent_apart_never_cross(noise: Noise, few_draws: None) -> None:
    """Told to cross several times in 31 of 40 sweeps by the values alone."""
    kinds = {kind_of(list(compared("2 % apart", noise, seed).sides.values())) for seed in range(4)}
    assert kinds <= {"always", "undecided", "equal"}


def test_the_interval_of_a_crossing_lies_between_decided_lengths() -> None:
    for seed in range(10):
        found = compared("crosses", QUIET, seed)
        (change,) = found.changes
        before = max(length for length, side in found.sides.items() if side == ABOVE)
        after = min(length for length, side in found.sides.items() if side == BELOW)
        assert change.length.ends is not None
        low, high = change.length.ends
        assert before <= low <= change.length.number <= high <= after
        assert change.length.value == pytest.approx(CROSSING, rel=0.3)


def test_processes_are_paired_by_number() -> None:
    """A drift that both share leaves no doubt, and a process that is missing mispairs nothing."""
    slow = {0: 1.0, 1: 2.0, 2: 4.0, 3: 3.0}
    mine = {length: {p: [0.9 * slow[p]] for p in (0, 1, 3)} for length in LENGTHS}
    other = {length: {p: [slow[p]] for p in (0, 1, 2, 3)} for length in LENGTHS}
    found = ratios(mine, other, TIME)
    assert [one.value for one in found.intervals.values()] == pytest.approx([0.9] * 6)
    assert set(found.sides.values()) == {BELOW}


def test_one_burst_decides_nothing() -> None:
    """A process that is five times as slow as its sisters at the longest length."""
    rng = np.random.default_rng(0)
    mine, other = (
        {length: {p: list(np.exp(0.01 * rng.standard_normal(5))) for p in range(3)}
         for length in LENGTHS}
        for _ in range(2)
    )  # fmt: skip
    mine[8192][1] = [5 * value for value in mine[8192][1]]
    assert not ratios(mine, other, TIME).changes
    assert ABOVE not in ratios(mine, other, TIME).sides.values()


def test_a_mebibyte_of_jitter_is_no_difference() -> None:
    """It made crossings at 65 and 188 tokens."""
    mib = 2**20
    mine = {t: {0: [40.0 * mib]} for t in JITTER}
    other = {t: {0: [(40 + jitter) * mib]} for t, jitter in JITTER.items()}
    assert set(ratios(mine, other, PEAK).sides.values()) == {EQUAL}
    beyond = {t: {0: [80.0 * mib]} for t in JITTER}
    assert set(ratios(mine, beyond, PEAK).sides.values()) == {BELOW}


def test_counts_are_exact() -> None:
    mine, other = repeated([10, 10, 10], 1), repeated([9, 10, 11], 1)
    assert list(ratios(mine, other, EXACT).sides.values()) == [ABOVE, EQUAL, BELOW]


def test_single_values_decide_only_what_is_clear() -> None:
    mine = {length: [[1.0]] for length in LENGTHS[:3]}
    other = {256: [[0.8]], 512: [[1.05]], 1024: [[1.3]]}
    found = ratios(mine, other, TIME)
    assert list(found.sides.values()) == [ABOVE, UNDECIDED, BELOW]
    assert found.changes[0].length.ends is None
    assert ratios(mine, {64: [[1.0]]}, Resolution()).sides == {}


# ---- growth --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cost", "least", "most"),
    [
        ("a + bT, small a", 0.85, 1.0),
        ("a + bT, large a", 0.85, 1.0),
        ("T^1.05", 0.0, 0.15),
        ("T^1.1", 0.0, 0.05),
        ("a + bT + cT²", 0.0, 0.05),
    ],
)
def test_what_is_called_linear(cost: str, least: float, most: float) -> None:
    """With a large constant nothing was, and T^1.05 was in 64 %."""
    assert least <= called_linear(*GROWTHS[cost], 40) <= most


def test_a_bend_needs_four_lengths() -> None:
    assert bend(repeated([1.0, 2.0, 4.0])) is None
    exact = bend(repeated([1.0, 2.0, 4.0, 8.0]))
    assert exact is not None and is_linear(exact)
