"""Who fails again and again is left alone, and tried now and then."""

from __future__ import annotations

from serving.breaker import Breaker


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def broken(clock: Clock) -> Breaker:
    breaker = Breaker(failures=3, rest=10, clock=clock)
    for _ in range(3):
        assert breaker.admits()
        breaker.failed()
    assert breaker.state == "open"
    return breaker


def test_failures_in_a_row_open_it() -> None:
    breaker = Breaker(failures=3, rest=10, clock=Clock())
    for _ in range(5):
        breaker.failed()
        breaker.failed()
        breaker.succeeded()
        assert breaker.state == "closed" and breaker.admits()


def test_one_trial_is_let_through_after_the_rest() -> None:
    clock = Clock()
    breaker = broken(clock)
    clock.now += 9.9
    assert not breaker.admits()
    clock.now += 0.2
    assert breaker.admits() and breaker.state == "half-open"
    assert not breaker.admits()


def test_a_trial_that_succeeds_closes_it() -> None:
    clock = Clock()
    breaker = broken(clock)
    clock.now += 10
    assert breaker.admits()
    breaker.succeeded()
    assert breaker.state == "closed" and breaker.admits() and breaker.admits()
    breaker.failed()
    assert breaker.state == "closed"  # it is counted anew


def test_a_trial_that_fails_opens_it_again() -> None:
    clock = Clock()
    breaker = broken(clock)
    clock.now += 10
    assert breaker.admits()
    clock.now += 5
    breaker.failed()
    assert breaker.state == "open"
    clock.now += 9
    assert not breaker.admits()
    clock.now += 1
    assert breaker.admits()


def test_a_trial_without_an_outcome_does_not_bar_the_next() -> None:
    """As where the client leaves."""
    clock = Clock()
    breaker = broken(clock)
    clock.now += 10
    assert breaker.admits()
    clock.now += 10
    assert breaker.admits() and breaker.state == "half-open"
