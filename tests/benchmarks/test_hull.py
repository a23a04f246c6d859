"""The benchmark of hulls: what stands in its tables and below them."""

from __future__ import annotations

import math

import pytest

from benchmarks import hull
from benchmarks.harness import Samples


def test_queries_of_every_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hull, "QUERIES", 50)
    lines = [*hull.queries([100, 300], rounds=2)]
    assert lines[2] == "| keys | normal | parabola | angles | addresses | scan |"
    assert [line.split(" | ")[0] for line in lines[4:6]] == ["| 100", "| 300"]
    assert sum("log-log slope" in line for line in lines) == 5


def test_prefills(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hull, "SCANNED", 4 * 128**2 / 20)
    lines = [*hull.prefill([64, 128, 200], width=8, rounds=2)]
    assert lines[2] == "| tokens | hull | angles | scan | flash |"
    assert lines[5].count("(") == 4
    assert lines[6].count("(") == 3, "200 tokens are more than may be scanned"
    assert "hull needs less than flash" in lines[-1]


def test_laws() -> None:
    lengths = [1 << power for power in range(10, 18)]
    noise = (0.99, 1.0, 1.01)
    rising = {n: Samples(tuple(n * math.log(n) ** 2 * e for e in noise)) for n in lengths}
    square = {n: Samples(tuple(n**2 * e for e in noise)) for n in lengths}
    assert hull.law(rising).startswith("T log^2 T fits better")
    assert hull.law(square).startswith("T^2 fits better")
    assert hull.slope(square).startswith("2.000 (")


def test_crossings() -> None:
    """At 1,024 hulls take twice, at 2,048 half as long: equal at their geometric mean."""
    flash = {n: Samples((1.0, 1.0)) for n in (1024, 2048)}
    hulls = {1024: Samples((2.0, 2.0)), 2048: Samples((0.5, 0.5))}
    assert hull.crossing(hulls, flash) == "1,448 (1,448 to 1,448) tokens"
    assert hull.crossing(flash, hulls) == "beyond 2,048 tokens"
    quick = {n: Samples((0.1, 0.1)) for n in flash}
    assert hull.crossing(quick, flash) == "1,024 tokens or fewer"
