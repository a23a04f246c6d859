"""What answering would take with large models: rooflines, called predicted."""

from __future__ import annotations

import json

import pytest

from probes.plan import answering
from probes.plan.answering import FILE, LENGTHS, MACHINES, ROOM, Work


def test_a_token_moves_weights_and_state_and_a_text_is_arithmetic() -> None:
    device = answering.machine("h200")
    one = Work(7 * 10**9, 10**9, 10**10, 3 * 10**14, 10**14)
    said = answering.predicted(one, device, 16, recurrent=False)
    moved = 14e9 + 1e9
    assert said["token_seconds"] == pytest.approx(moved / (4.8e12 * 0.83), rel=5e-3)
    reading = 2e14 / (989e12 * 0.8) + 1e14 / (989e12 * 0.35)
    assert said["read_seconds"] == pytest.approx(reading, rel=5e-3)
    assert said["fits"]
    full = int(ROOM * device.memory_bytes)
    assert not answering.predicted(Work(7 * 10**9, full, 1, 1, 0), device, 16, False)["fits"]


def test_the_file_has_every_device_and_says_where_its_figures_come_from() -> None:
    found = json.loads(FILE.read_text())
    assert found["lengths"] == list(LENGTHS)
    assert [one["name"] for one in found["machines"]] == list(MACHINES)
    for device in found["machines"]:
        assert device["sources"] and set(device["points"]) == set(found["models"])
        for points in device["points"].values():
            assert len(points) == len(LENGTHS)
            times = [point["read_seconds"] for point in points]
            assert times == sorted(times)


@pytest.mark.slow
def test_the_file_is_what_the_planner_says_now() -> None:
    """`python -m probes.plan.answering` writes it."""
    assert json.loads(FILE.read_text()) == answering.predictions()
