"""AICc finds the shape the times were made from."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from probes.analysis.shape_fit import LINEAR, LOGLINEAR, QUADRATIC, growth, nonnegative
from tests.probes.analysis.test_estimators import LENGTHS, sampled

SHAPES = {
    LINEAR: lambda t: 0.01 + 1e-5 * t,
    LOGLINEAR: lambda t: 0.01 + 1e-6 * t * math.log(t),
    QUADRATIC: lambda t: 0.01 + 1e-5 * t + 2e-9 * t * t,
}
TWELVE = tuple(2**k for k in range(5, 17))


@pytest.mark.parametrize("shape", SHAPES)
def test_exact_times(shape: str) -> None:
    found = growth(sampled(SHAPES[shape], lengths=TWELVE))
    assert found.best == shape
    assert found.weights[shape] > 0.9
    assert sum(found.weights.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("processes", "lengths"), [(1, TWELVE), (5, LENGTHS)], ids=["one process", "five processes"]
)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_true_shape_is_found_through_noise(
    shape: str, processes: int, lengths: Sequence[int]
) -> None:
    found = [
        growth(sampled(SHAPES[shape], processes=processes, lengths=lengths, seed=seed,
                       within=0.01, between=0.03))
        for seed in range(300)
    ]  # fmt: skip
    assert sum(one.best == shape for one in found) >= 0.85 * len(found)


def test_a_constant_is_any_of_them() -> None:
    for seed in range(10):
        noisy = sampled(lambda t: 0.01, lengths=TWELVE, within=0.01, seed=seed)
        assert growth(noisy).weights[QUADRATIC] < 0.5
    assert not growth(sampled(lambda t: 0.01, lengths=TWELVE)).decided
    assert growth(sampled(SHAPES[LINEAR], lengths=TWELVE)).decided


def test_too_little_to_judge_by() -> None:
    assert growth(sampled(float, lengths=TWELVE[:7])) is None
    assert growth(sampled(float, lengths=TWELVE[:8])) is not None
    assert growth(sampled(float, lengths=TWELVE[:3], processes=5)) is None


def test_nonnegative_fit_is_the_best_one_allowed() -> None:
    rng = np.random.default_rng(0)
    design, targets = rng.standard_normal((6, 3)), rng.standard_normal((20, 6))
    found = nonnegative(design, targets)
    assert (found >= 0).all()
    gradients = (found @ design.T - targets) @ design
    # Optimal: no descent where a coefficient is free, and none into the allowed side elsewhere.
    assert gradients[found > 0] == pytest.approx(0, abs=1e-9)
    assert (gradients[found == 0] >= -1e-9).all()
