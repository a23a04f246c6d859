"""Retries are a share of the requests, and some for a server that has few."""

from __future__ import annotations

from serving.retry_budget import RetryBudget
from tests.serving.test_breaker import Clock


def test_what_was_saved_up_is_all_there_is_at_once() -> None:
    budget = RetryBudget(share=0, per_second=0, most=3, clock=Clock())
    assert [budget.take() for _ in range(5)] == [True] * 3 + [False] * 2


def test_requests_earn_a_share() -> None:
    budget = RetryBudget(share=0.25, per_second=0, most=2, clock=Clock())
    assert budget.take() and budget.take() and not budget.take()
    taken = 0
    for _ in range(100):
        budget.request()
        taken += budget.take()
    assert taken == 25


def test_time_earns_some_up_to_the_most() -> None:
    clock = Clock()
    budget = RetryBudget(share=0, per_second=0.5, most=4, clock=clock)
    for _ in range(4):
        assert budget.take()
    clock.now += 1
    assert not budget.take()
    clock.now += 1
    assert budget.take() and not budget.take()
    clock.now += 1000
    assert budget.left == 4
