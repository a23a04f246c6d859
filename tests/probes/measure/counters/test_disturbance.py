"""The rule on injected counters; what this machine happens to do decides no test."""

from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import pytest

from core import energy
from probes.measure.counters import disturbance
from probes.measure.counters.disturbance import (
    CounterReading,
    free_cores,
    is_disturbed,
    judge,
    relative_half_width,
)
from probes.measure.tasks import timing
from probes.measure.tasks.timing import Series
from tests.probes.measure.child_tasks import TASK

QUIET = CounterReading(
    1.0, 1.9, involuntary=3, waited=0.01, wakes=400, busy=1.93, steal=0.0, pressure=0.0
)


def rule(threads: int = 2, cores: int = 2, **changes: Any) -> bool:
    one = replace(QUIET, **changes)
    return is_disturbed(one, one, threads, cores)


def test_a_repeat_alone_on_its_machine_is_not_disturbed() -> None:
    assert not rule()
    assert not rule(waited=0.4, wakes=20_000), "threads that sleep and wake need no others for it"
    assert not is_disturbed(CounterReading(1.0, 0.99), CounterReading(1.0, 0.99), 1, 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"waited": 0.3},
        {"busy": 2.9},
        {"steal": 0.2},
        {"threads": 1, "waited": None, "cpu": 0.5},
        {"waited": None, "busy": 2.9},
    ],
)
def test_delay_by_others_is_seen(changes: dict[str, Any]) -> None:
    assert rule(**changes)


def test_others_on_cores_that_are_left_over_do_not_disturb() -> None:
    assert not rule(threads=1, cores=2, cpu=1.0, busy=1.98)
    assert rule(threads=1, cores=2, cpu=1.0, busy=2.2)


def test_short_repeats_are_judged_within_a_window() -> None:
    """Ticks of 10 ms say nothing about a repeat of 1 ms, but about a quarter of a second."""
    each = CounterReading(0.01, 0.02, 0, 0.0, 10, 0.02, 0.0, 0.0)
    tick = replace(each, busy=0.03)
    steps = [each] * 30 + [tick] + [each] * 30
    add = ("wall", "cpu", "involuntary", "waited", "wakes", "busy", "steal", "pressure")
    readings = list(accumulate(
        steps,
        lambda at, step: CounterReading(*(getattr(at, name) + getattr(step, name) for name in add)),
        initial=CounterReading(5.0, 5.0, 0, 0.0, 0, 9.0, 0.0, 0.0),
    ))  # fmt: skip
    assert not any(judge(list(pairwise(readings)), 2, 2))
    late = list(accumulate(
        [replace(each, busy=0.03)] * 30 + [each] * 60,
        lambda at, step: CounterReading(*(getattr(at, name) + getattr(step, name) for name in add)),
        initial=readings[0],
    ))  # fmt: skip
    found = judge(list(pairwise(late)), 2, 2)
    assert all(found[:30]) and not any(found[60:])


def test_a_half_width_shrinks_with_repeats() -> None:
    few, many = [1.0, 1.02, 0.98, 1.01, 0.99], [1.0, 1.02, 0.98, 1.01, 0.99] * 10
    assert 0.005 < relative_half_width(few) < 0.03
    assert relative_half_width(many) < relative_half_width(few) / 2
    assert relative_half_width([1.0]) == float("inf")


def series(seconds: list[float], disturbed: list[bool]) -> Series:
    waits = [0.0, *accumulate(0.5 * bad for bad in disturbed)]
    at = [CounterReading(float(n), float(n), 0, wait, 0) for n, wait in enumerate(waits)]
    return Series(1, seconds=seconds, readings=list(pairwise(at)))


NONE = energy.Counter("unavailable")
ASKED = replace(TASK, repeats=3, relative_half_width=0.02, repeat_seconds=1e9)


@pytest.mark.parametrize(
    ("seconds", "disturbed", "enough"),
    [
        ([1.0, 1.0], [False] * 2, False),
        ([1.0, 1.001, 0.999], [False] * 3, True),
        ([1.0, 1.3, 0.8, 1.1], [False] * 4, False),
        ([1.0, 9.0, 1.0], [False, True, False], False),
        ([1.0, 9.0, 1.0, 1.0], [False, True, False, False], True),
        ([9.0] * 5, [True] * 5, False),
        ([9.0] * 6, [True] * 6, True),
        ([1.0, 2.0] * 25, [False] * 50, True),
    ],
)
def test_repeats_go_on_until_the_point_is_sure(
    seconds: list[float], disturbed: list[bool], enough: bool
) -> None:
    assert series(seconds, disturbed).is_enough(ASKED) is enough


def test_repeats_end_with_their_time_and_their_number_can_be_fixed() -> None:
    noisy = series([1.0, 1.3, 0.8], [False] * 3)
    assert not noisy.is_enough(ASKED)
    assert noisy.is_enough(replace(ASKED, repeat_seconds=3.0))
    assert noisy.is_enough(replace(ASKED, relative_half_width=0.0))


def test_every_repeat_has_its_counters() -> None:
    facts = timing.repeat(
        replace(TASK, device="cpu"), NONE, lambda: None, lambda _: sum(range(10_000))
    ).facts(NONE)
    assert len(facts["seconds"]) == len(facts["cpu_seconds"]) == len(facts["disturbed"]) == 3
    assert min(facts["cpu_seconds"]) > 0
    for name in ("involuntary", "waited", "others", "pressure", "steal"):
        assert len(facts[name]) in (0, 3)
        assert all(value >= 0 for value in facts[name])


@pytest.mark.parametrize(("used", "free"), [(0.1, 4), (0.9, 3), (1.9, 2), (7.0, 1)])
def test_free_cores(monkeypatch: pytest.MonkeyPatch, used: float, free: int) -> None:
    counted = iter([(10.0, 0.0), (10.0 + used * 0.01, 0.0)])
    monkeypatch.setattr(disturbance, "_cores_in_use", lambda: next(counted))
    monkeypatch.setattr(disturbance, "allowed", lambda: [0, 1, 2, 3])
    monkeypatch.setattr(disturbance, "_physical", len)
    monkeypatch.setattr(disturbance, "QUOTA", Path("/no/such/file"))
    assert free_cores(0.01) == (free, 4)
