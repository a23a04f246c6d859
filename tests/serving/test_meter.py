"""What a round costs is shared out, and nothing of it is lost."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from core.energy import Counter
from serving.meter import Meter
from serving.requests import Drawn, Finished, Read, Spent


def ticks(*values: float) -> Iterator[float]:
    return iter(values)


def drawn(number: int) -> Drawn:
    return Drawn(number, 1, 1, 0.0, 0)


def test_sequences_that_advance_together_share_in_equal_parts() -> None:
    clock, processor = ticks(0, 3, 10, 14), ticks(0, 6, 20, 22)
    meter = Meter(Counter("none"), clock.__next__, processor.__next__)
    with meter.working([1]):
        pass
    with meter.working([1, 2]):
        pass
    events = meter.stated([Read(1, 5, 9, 0, 3.0), drawn(1), drawn(2)])
    assert [event.spent for event in events] == [
        Spent(), Spent(5.0, 7.0), Spent(2.0, 1.0),
    ]  # fmt: skip
    assert meter.stated([drawn(1)]) == [drawn(1)]  # the next round is another


def test_joules_go_by_seconds_and_idle_ones_to_nobody() -> None:
    joules = ticks(100, 180, 500, 520)
    counter = Counter("a counter", (joules.__next__,), (1e9,))
    clock, processor = ticks(0, 3, 3, 4, 50, 51), ticks(*range(6))
    meter = Meter(counter, clock.__next__, processor.__next__)
    with meter.working([1]):
        pass
    with meter.working([2]):
        pass
    first, second = meter.stated([drawn(1), Finished(2, "stop", 3)])
    assert (first.spent.joules, second.spent.joules) == (60.0, 20.0)
    with meter.working([3]):
        pass
    (last,) = meter.stated([drawn(3)])
    assert last.spent.joules == 20.0


def test_what_fails_costs_too() -> None:
    meter = Meter(Counter("none"), ticks(0, 2).__next__, ticks(0, 1).__next__)
    with pytest.raises(ValueError, match="x"), meter.working([1]):
        raise ValueError("x")
    assert meter.stated([drawn(1)])[0].spent == Spent(2.0, 1.0)


def test_sums_know_joules_as_far_as_they_were_counted() -> None:
    assert Spent(1, 2) + Spent(3, 4) == Spent(4, 6)
    assert Spent(1, 2, 5) + Spent(3, 4) == Spent(4, 6, 5)
    assert Spent(1, 2, 5) + Spent(3, 4, 6) == Spent(4, 6, 11)
