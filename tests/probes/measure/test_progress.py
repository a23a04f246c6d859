"""The time left, from the pace so far."""

from __future__ import annotations

from probes.measure.points import list_points
from probes.measure.progress import Pace, in_words
from tests.probes.measure.test_repair import SPECS, FakeBench


def test_pace() -> None:
    clock = iter([0.0, 0.0, 10.0, 10.0, 40.0])
    pace = Pace(lambda: next(clock))
    points = list_points(SPECS[:1], FakeBench(lengths=[64, 128, 256]).conf)
    by_length = {point.length: point for point in points}
    assert pace.left(points) is None
    for length in (64, 256):
        pace.begin()
        pace.end(by_length[length])
    assert pace.left([by_length[128]]) == 10.0
    assert pace.left([by_length[256], by_length[256]]) == 60.0
    assert in_words(3725.0) == ", 1:02:05 left" and in_words(None) == ""
