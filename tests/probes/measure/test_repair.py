"""Disturbed points are measured again, told by a bench whose rows are injected."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conf.schema import ProbeConf
from models.registry import ModelSpec
from probes.measure import sweep
from probes.measure.points import Point, list_points
from probes.measure.progress import Pace, Screen
from probes.measure.runner import SweepRunner
from probes.rows import Row, append_rows, read_rows
from scripts.probe import ending
from tests.probes.test_rows import make_row

SPECS = [ModelSpec(name, "tiny", f"models.{name}.X", {}) for name in ("a", "b")]


class FakeBench:
    """Points take no time and are disturbed as often as `plan` says of them."""

    threads_chosen = "1 were asked for"
    answers, usable = SweepRunner.answers, SweepRunner.usable

    def __init__(self, plan: Mapping[tuple[str, int], int] | None = None, **changes: Any) -> None:
        fields = {"lengths": [64, 128], "sweeps": ["batch_1"], "probes": ["train"], "repeats": 2}
        self.conf = ProbeConf(**fields | {"remeasure": 1e6} | changes)
        self.facts = {"device": {"threads": 1}}
        self.versions = {"crossover": "unknown"}
        self.predictor = SimpleNamespace(learn=lambda row, size: None)
        self.plan = dict(plan or {})
        self.measured: list[tuple[str, int]] = []
        self.visits: dict[tuple[str, int], int] = defaultdict(int)

    def row(self, point: Point) -> Row:
        return make_row(
            model=point.spec.name, target=point.spec.target, config={}, probe=point.probe,
            sweep=point.sweep, context_length=point.length, process=point.process,
        )  # fmt: skip

    def key(self, point: Point) -> str:
        return self.row(point).key

    def measure(self, point: Point) -> Row:
        place = point.spec.name, point.length
        self.measured.append(place)
        self.visits[place] += 1
        bad = self.visits[place] <= self.plan.get(place, 0)
        row = self.row(point)
        row.seconds[:] = [float(self.visits[place])] * 2
        row.disturbed[:] = [bad, bad]
        return row


def run(bench: FakeBench, path: Path) -> dict[tuple[str, int], Row]:
    points = list_points(SPECS, bench.conf)
    seen: list[Row] = []
    with Screen() as screen:
        one = sweep._Sweep(bench, points, path, seen.append, screen)
        one.begin(read_rows(path), [])
        one.pass_over(one.turns)
        one.repair()
    assert len(one.rows) == len(points)
    return {(row.model, row.context_length): row for row in one.rows.values()}


def test_a_disturbed_point_is_measured_again_with_what_it_is_compared_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = FakeBench({("a", 128): 1})
    rows = run(bench, tmp_path / "p.jsonl")
    assert len(bench.measured) == 6
    assert set(bench.measured[:4]) == {(name, length) for name in "ab" for length in (64, 128)}
    assert set(bench.measured[4:]) == {("a", 128), ("b", 128)}
    assert {place: row.visit for place, row in rows.items()} == {
        ("a", 64): 0, ("b", 64): 0, ("a", 128): 1, ("b", 128): 1,
    }  # fmt: skip
    assert not any(row.is_disturbed for row in rows.values())
    assert "1 measurement is disturbed: it is made again" in capsys.readouterr().out
    again = FakeBench()
    assert run(again, tmp_path / "p.jsonl") == rows and again.measured == []


def test_what_stays_disturbed_says_so_and_the_same_command_repairs_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "p.jsonl"
    first = FakeBench({("a", 64): 99})
    rows = run(first, path)
    assert len(first.measured) == 4 + 2 * sweep.VISITS
    assert [place for place, row in rows.items() if row.is_disturbed] == [("a", 64)]
    assert rows["a", 64].visit == sweep.VISITS
    assert "made again 3 times: 1 measurement is still disturbed" in capsys.readouterr().out
    second = FakeBench()
    rows = run(second, path)
    assert sorted(second.measured) == [("a", 64), ("b", 64)]
    assert not any(row.is_disturbed for row in rows.values())
    assert rows["a", 64].visit == sweep.VISITS + 1
    told = capsys.readouterr().out
    assert "1 disturbed measurement is made again, with what is compared with it" in told


def test_the_less_disturbed_of_two_measurements_stays(tmp_path: Path) -> None:
    """Both are disturbed when `b` first comes back, and none of it is better than before."""
    path = tmp_path / "p.jsonl"
    for point in list_points(SPECS, FakeBench().conf):
        row = FakeBench().row(point)
        bad = point.spec.name == "a" and point.length == 64
        row.seconds[:] = [7.0, 7.0]
        row.disturbed[:] = [bad, bad]
        append_rows(path, [row])
    rows = run(FakeBench({("a", 64): 99, ("b", 64): 99}), path)
    assert rows["a", 64].seconds == rows["b", 64].seconds == [7.0, 7.0]
    assert not rows["b", 64].is_disturbed and rows["a", 64].visit > 0


def test_a_repaired_turn_is_written_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at any moment, what is compared comes from one turn."""
    written = []

    def append_rows(path: Path, rows: list[Row]) -> None:
        written.append([(row.model, row.context_length, row.visit) for row in rows])

    monkeypatch.setattr(sweep, "append_rows", append_rows)
    run(FakeBench({("a", 128): 1}), tmp_path / "p.jsonl")
    assert [len(rows) for rows in written] == [1, 1, 1, 1, 2]
    assert sorted(written[-1]) == [("a", 128, 1), ("b", 128, 1)]


def test_a_point_that_fails_when_measured_again_keeps_what_it_had(tmp_path: Path) -> None:
    class Failing(FakeBench):
        def measure(self, point: Point) -> Row:
            row = super().measure(point)
            again = self.visits[point.spec.name, point.length] > 1
            return replace(row, status="timeout", seconds=[], disturbed=[]) if again else row

    bench = Failing({("a", 64): 1}, processes=[1])
    rows = run(bench, tmp_path / "p.jsonl")
    assert all(row.status == "ok" for row in rows.values())
    assert rows["a", 64].is_disturbed and len(bench.measured) == 4 + 2 * sweep.VISITS


def test_there_is_an_end_to_it(tmp_path: Path) -> None:
    for remeasure, most in ((0.0, 4), (1e-9, 4)):
        bench = FakeBench({("a", 64): 99}, remeasure=remeasure)
        run(bench, tmp_path / f"{remeasure}.jsonl")
        assert len(bench.measured) == most
    kept = FakeBench(remeasure=0.0)
    run(kept, tmp_path / "0.0.jsonl")
    assert kept.measured == []


def test_what_the_time_does_not_allow_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every point takes 10 s by the clock: 80 s, of which 30 % are for two of the disturbed."""
    now = [0.0]
    monkeypatch.setattr(sweep.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(sweep, "Pace", lambda: Pace(sweep.time.monotonic))

    class Slow(FakeBench):
        def measure(self, point: Point) -> Row:
            now[0] += 10.0
            return super().measure(point)

    lengths = [64, 128, 256, 512]
    bench = Slow({(name, length): 99 for name in "ab" for length in lengths[:3]},
                 lengths=lengths, remeasure=0.3)  # fmt: skip
    rows = run(bench, tmp_path / "p.jsonl")
    assert len(bench.measured) == 8 + 2
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    begun = lines.index("6 measurements are disturbed: as many as 0:24 allows are made again")
    assert [line[:18].rstrip(" ab") for line in lines[begun + 1 : begun + 3]] == [
        "1 of 6, 0:14 left", "2 of 6, 0:04 left",
    ]  # fmt: skip
    end = "the time to measure again is used up: 6 measurements are still disturbed"
    assert lines[begun + 3] == end
    found = list(rows.values())
    told = ending(found, 0.3)
    assert told == (
        "8 measurements, 0 of them failed, 6 are disturbed by other processes: "
        "the same command measures them again"
    )
    assert ending(found, 0.0).endswith("remeasure=0 keeps them")
    assert ending([row for row in found if not row.is_disturbed], 0.3).endswith("failed")


def test_every_line_says_how_far_it_is_and_how_long_it_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(FakeBench(), tmp_path / "p.jsonl")
    lines = [line for line in capsys.readouterr().out.splitlines() if "train" in line]
    assert [line[:6] for line in lines] == ["1 of 4", "2 of 4", "3 of 4", "4 of 4"]
    assert all("left" in line and len(line) <= 100 for line in lines)
