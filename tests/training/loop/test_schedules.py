"""The learning rate over a training."""

from __future__ import annotations

import itertools
import math

import pytest

from conf.schema import OptimConf
from training.loop.schedules import describe_end, lr_factor

CONF = OptimConf(lr=1e-3, final_lr=1e-4, warmup_steps=10)


def factors(steps: int = 110, **changes: float | str) -> list[float]:
    conf = OptimConf(**{**vars(CONF), **changes})
    return [lr_factor(step, steps, conf) for step in range(steps)]


def test_cosine_has_its_corners() -> None:
    rates = factors()
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == pytest.approx(1.0)
    assert rates[10] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.1)
    halfway = 10 + 99 / 2
    assert (rates[math.floor(halfway)] + rates[math.ceil(halfway)]) / 2 == pytest.approx(0.55)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


def test_linear_is_a_straight_line() -> None:
    rates = factors(schedule="linear")
    assert rates[10] == pytest.approx(1.0) and rates[-1] == pytest.approx(0.1)
    steps = [a - b for a, b in itertools.pairwise(rates[10:])]
    assert steps == pytest.approx([0.9 / 99] * 99)


def test_constant_stays_at_the_peak() -> None:
    assert factors(schedule="constant")[9:] == [1.0] * 101


def test_wsd_is_constant_until_its_decay() -> None:
    rates = factors(schedule="wsd", decay_steps=20)
    assert rates[9:90] == [1.0] * 81
    decay = [0.1 + 0.9 * (1 - math.sqrt(k / 20)) for k in range(1, 21)]
    assert rates[90:] == pytest.approx(decay)
    assert rates[-1] == pytest.approx(0.1)


def test_a_trunk_does_not_depend_on_its_length() -> None:
    """So branches of one trunk share all its steps."""
    assert factors(50, schedule="wsd") == factors(110, schedule="wsd")[:50]
    branch = factors(60, schedule="wsd", decay_steps=10)
    assert branch[:50] == factors(110, schedule="wsd")[:50]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant", "wsd"])
def test_tiny_runs(schedule: str) -> None:
    conf = OptimConf(lr=1e-3, final_lr=1e-4, warmup_steps=10, schedule=schedule)
    for steps in (1, 2, 10, 11, 12):
        assert all(0 < lr_factor(step, steps, conf) <= 1 for step in range(steps + 3))
    assert lr_factor(0, 5, OptimConf(warmup_steps=0, schedule=schedule)) == 1.0


def test_what_is_said_of_the_rest() -> None:
    assert describe_end(10, CONF) == "it only rises until the last step, 10"
    assert describe_end(110, CONF) == "the cosine now ends at step 110"
    trunk = OptimConf(schedule="wsd", warmup_steps=0)
    assert describe_end(110, trunk) == "it stays constant until the last step, 110"
    trunk.decay_steps = 20
    assert describe_end(110, trunk) == "it falls from step 90 to the last step, 110"
