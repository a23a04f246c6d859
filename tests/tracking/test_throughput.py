"""Known tokens over known seconds, with a clock that only the test moves."""

from __future__ import annotations

import pytest

from tracking.throughput import Throughput


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_warm_up_is_left_out() -> None:
    clock = Clock()
    meter = Throughput(warmup=2, clock=clock)
    meter.start()
    for seconds in (50.0, 20.0):
        clock.now += seconds
        meter.step(100)
    assert meter.tokens_per_second is None
    for seconds in (2.0, 3.0):
        clock.now += seconds
        meter.step(100)
    assert meter.tokens_per_second == pytest.approx(200 / 5)


def test_pauses_are_left_out() -> None:
    clock = Clock()
    meter = Throughput(warmup=0, clock=clock)
    meter.start()
    clock.now += 1
    meter.step(30)
    clock.now += 500  # a validation
    meter.start()
    clock.now += 2
    meter.step(30)
    assert meter.tokens_per_second == pytest.approx(20)
    assert (meter.tokens, meter.seconds) == (60, pytest.approx(3))


def test_a_later_session_goes_on_counting() -> None:
    clock = Clock()

    def trained(meter: Throughput, *steps: float) -> Throughput:
        meter.start()
        for seconds in steps:
            clock.now += seconds
            meter.step(100)
        return meter

    state = trained(Throughput(clock=clock), 50.0, 20.0, 10.0, 2.0, 3.0).state()
    later = Throughput(clock=clock)
    later.restore(state)
    assert trained(later, 40.0, 30.0, 10.0).tokens_per_second_now is None  # nothing is warm yet
    assert later.tokens_per_second == pytest.approx(200 / 5)
    assert later.all_seconds == pytest.approx(85 + 80)
    assert trained(later, 8.0).tokens_per_second_now == pytest.approx(100 / 8)
    assert later.tokens_per_second == pytest.approx(300 / 13)

    older = Throughput(clock=clock)
    older.restore({"tokens": 200, "seconds": 5.0})  # as checkpoints once held it
    assert trained(older, 1.0).all_seconds is None


def test_a_clock_set_back_gives_no_negative_rate() -> None:
    clock = Clock()
    meter = Throughput(warmup=0, clock=clock)
    meter.start()
    clock.now -= 3600
    meter.step(10)
    assert meter.tokens_per_second is None
    clock.now += 1
    meter.step(10)
    assert meter.tokens_per_second == pytest.approx(20)


def test_a_step_needs_a_start() -> None:
    with pytest.raises(RuntimeError):
        Throughput().step(1)
