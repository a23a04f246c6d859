"""Measure every point of a sweep, in one or more child processes, into one `probes.jsonl`."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from conf.schema import ProbeConf
from core import environment
from core.errors import UserError
from core.precision import AUTO, of_probe
from models.layers.compiled import NONE, chosen
from models.registry import ModelSpec, model_class
from probes.analysis.bootstrap import typical
from probes.analysis.comparability import check_sizes
from probes.measure import isolated
from probes.measure.points import Point, left_out, list_points
from probes.measure.progress import Pace, Screen, are_disturbed, clock, in_words
from probes.measure.runner import SweepRunner
from probes.measure.tasks.timing import DTYPES
from probes.rows import OK, Row, append_rows, check_name_of, read_rows
from probes.trained import Trained

VISITS = 3
"""Times that a disturbed point is measured again at most, within one call."""


def run_sweep(
    specs: Sequence[ModelSpec], conf: ProbeConf, path: Path, on_row: Callable[[Row], None]
) -> list[Row]:
    """Measure one row for every point of `list_points(specs, conf)`, in that order, process by
    process.

    A process of a point that `path` already holds with status ok, on this device, with enough
    repeats and undisturbed by others, is not measured again. Every new row is on disk before
    `on_row` sees it, so the same call continues an interrupted sweep. A point that fails is a row
    too, the last one of its point: its further processes, which could not complete it, are not
    started. A point that could only fail (`probes.measure.feasibility`) is not tried, and its row
    says so.

    Points that others disturbed are measured again at the end, in a different order, together with
    the models they are compared with, so that pairs stay next to each other in time. That ends
    after `VISITS` times or `conf.remeasure` of the time of the sweep; of each such group the less
    disturbed measurement stays.

    `auto` in `conf.precision` and `conf.compile` is that of the rows that `path` holds of this
    device, if they agree, or what suits the device.

    Raises `UserError` if the configuration makes no sense or, unless `conf.unmatched`, if the
    models differ in their numbers of parameters, before anything is measured.
    """
    if conf.precision not in (AUTO, *DTYPES):
        raise UserError(f"precision={conf.precision!r}: choose from {', '.join(DTYPES)}")
    points = list_points(specs, conf)
    for spec in specs:
        check_name_of(spec)
    kind = environment.device_kind(conf.accelerator)
    earlier = read_rows(path)
    if conf.precision == AUTO:
        before = {row.precision for row in earlier if row.device["kind"] == kind}
        only = before.pop() if len(before) == 1 else of_probe(AUTO, kind == "cuda")
        conf = replace(conf, precision=only)
    compilers = {row.backends.get("compile", NONE) for row in earlier if row.device["kind"] == kind}
    compiler = chosen(conf.compile, kind == "cuda")
    if conf.compile == AUTO and len(compilers) == 1:
        compiler = compilers.pop()
    conf = replace(conf, compile=compiler)
    if not conf.unmatched:
        check_sizes(specs, earlier, path)
    modules = ["probes.measure.worker", *{spec.target.rpartition(".")[0] for spec in specs}]
    if any(isinstance(spec, Trained) for spec in specs):
        modules.append("models.formats.load")  # before the baseline of memory is taken
    if conf.compile != NONE:
        modules += ["torch._dynamo", "torch._inductor.compile_fx"]
    isolated.preload(modules)
    bench = SweepRunner(conf, kind, earlier, operators_of(specs))
    with Screen() as screen:
        sweep = _Sweep(bench, points, path, on_row, screen)
        sweep.begin(earlier, left_out(conf))
        sweep.pass_over(sweep.turns)
        sweep.repair()
    return [sweep.rows[key] for point in points if (key := bench.key(point)) in sweep.rows]


def operators_of(specs: Sequence[ModelSpec]) -> list[str]:
    """Operators whose back end the models choose by themselves."""
    names = set()
    for spec in specs:
        if spec.config.get("wkv", "auto") != "auto":
            continue
        with suppress(UserError):  # of a class that is not there: its rows say so
            names.add(getattr(model_class(spec.target), "operator", None))
    return sorted(filter(None, names))


class _Sweep:
    """What is known of each point while a sweep runs."""

    def __init__(
        self,
        bench: SweepRunner,
        points: Sequence[Point],
        path: Path,
        on_row: Callable[[Row], None],
        screen: Screen,
    ) -> None:
        self.bench, self.points, self.path = bench, points, path
        self.on_row, self.screen = on_row, screen
        self.rows: dict[str, Row] = {}
        """By key, the measurement that counts."""
        self.turns = [
            list(turn)
            for _, turn in itertools.groupby(
                points, lambda point: (point.probe, point.sweep, point.length, point.process)
            )
        ]
        """Models of one comparison, measured one right after the other."""
        self._failed: set[str] = set()
        """Points of which a process failed, by the key of the first one."""
        self._pace = Pace()
        self._spent = 0.0

    def begin(self, earlier: Sequence[Row], notices: Sequence[str]) -> None:
        """Take over what the file has, and say so."""
        mine = {self.bench.key(point) for point in self.points}
        latest = {row.key: row for row in earlier if row.key in mine}
        finished = {key: row for key, row in latest.items() if self.bench.usable(row)}
        for row in finished.values():
            self.bench.predictor.learn(row, 0)
        disturbed = {
            key: row
            for key, row in latest.items()
            if key not in finished and self.bench.answers(row)
        }
        self.rows = finished | disturbed
        for notice in notices:
            self.screen.say(notice)
        if finished:
            count = f"{len(finished)} of {len(self.points)}"
            kept = f"{count} points are in {self.path} already and are kept"
            commit = self.bench.versions["crossover"]
            if other := sum(row.commit != commit for row in finished.values()):
                kept += (
                    f"; {other} of them were measured at another commit (a new group starts afresh)"
                )
            self.screen.say(kept)
        if disturbed:
            several = len(disturbed) > 1
            self.screen.say(
                f"{len(disturbed):,} disturbed measurement{'s are' if several else ' is'} made "
                f"again, with what is compared with {'them' if several else 'it'}"
            )
        threads = self.bench.facts["device"]["threads"]
        plural = "" if threads == 1 else "s"
        self.screen.say(f"{threads} thread{plural} ({self.bench.threads_chosen})")

    def pass_over(self, turns: Sequence[Sequence[Point]]) -> None:
        """Measure what is missing of each turn, and all of one of which a point is disturbed."""
        todo = [(turn, missing) for turn in turns if (missing := self._missing(turn))]
        begun = time.monotonic()
        for place, (turn, missing) in enumerate(todo):
            ahead = [point for _, later in todo[place + 1 :] for point in later]
            done = sum(len(earlier) for _, earlier in todo[:place])
            self._measure_turn(turn, missing, done, ahead)
        self._spent = time.monotonic() - begun

    def repair(self) -> None:
        """Measure disturbed points again while there is time for it."""
        budget = self.bench.conf.remeasure * self._spent
        end = time.monotonic() + budget
        if budget <= 0:
            return
        for _ in range(VISITS):
            turns = [turn for turn in self.turns if self._is_disturbed(turn)]
            if not turns:
                return
            points = [point for turn in turns for point in turn]
            for place, turn in enumerate(turns):
                left = end - time.monotonic()
                if (self._pace.left(turn) or 0.0) > left:
                    now = are_disturbed(self._count_disturbed(), "still ")
                    self.screen.say(f"the time to measure again is used up: {now}")
                    return
                if place == 0:
                    count = self._count_disturbed()
                    again = "it is" if count == 1 else "all are"
                    if (self._pace.left(points) or 0.0) > left:
                        again = f"as many as {clock(left)} allows are"
                    self.screen.say(f"{are_disturbed(count)}: {again} made again")
                ahead = [point for later in turns[place + 1 :] for point in later]
                done = len(points) - len(ahead) - len(turn)
                self._measure_turn(turn, turn, done, ahead, end)
        if count := self._count_disturbed():
            self.screen.say(f"made again {VISITS} times: {are_disturbed(count, 'still ')}")

    def _missing(self, turn: Sequence[Point]) -> list[Point]:
        if self.bench.conf.remeasure > 0 and self._is_disturbed(turn):
            return list(turn)
        return [point for point in turn if self.bench.key(point) not in self.rows]

    def _measure_turn(
        self,
        turn: Sequence[Point],
        missing: Sequence[Point],
        done: int,
        ahead: Sequence[Point],
        end: float = math.inf,
    ) -> None:
        """Measure `missing`, of `turn`; new rows replace old ones if less disturbed, all or none.

        What does not fit before `end`, of the monotonic clock, is not going to be measured.
        """
        old = {
            key: self.rows[key] for point in missing if (key := self.bench.key(point)) in self.rows
        }
        new: dict[str, Row] = {}
        total = done + len(missing) + len(ahead)
        for place, point in enumerate(missing):
            key = self.bench.key(point)
            whole = self.bench.key(replace(point, process=0))
            if whole in self._failed:
                continue
            left = self._left([*missing[place:], *ahead], end)
            self.screen.show(point, done + place, total, left)
            self._pace.begin()
            row = self.bench.measure(point)
            self._pace.end(point)
            if key in old:
                row = replace(row, visit=old[key].visit + 1)
            if row.status != OK and key not in old:  # a point that has run once can run again
                self._failed.add(whole)
            new[key] = row
            if not old:
                self._keep([row])
            left = self._left([*missing[place + 1 :], *ahead], end)
            progress = f"{done + place + 1} of {total}{in_words(left)}"
            self.screen.say(f"{progress:<22} {describe(row)}")
        again = [key for key in old if key in new]
        better = _badness(new[key] for key in again) < _badness(old[key] for key in again)
        if not old:
            return
        kept = {key: row if better else replace(old[key], visit=row.visit)
                for key, row in new.items() if key in old}  # fmt: skip
        self._keep([kept.get(key, row) for key, row in new.items()])

    def _keep(self, rows: Sequence[Row]) -> None:
        """All of them or none: what is compared must come from one turn, even if killed here."""
        append_rows(self.path, rows)
        for row in rows:
            self.rows[row.key] = row
            self.on_row(row)

    def _left(self, points: Sequence[Point], end: float) -> float | None:
        left = self._pace.left(points)
        return None if left is None else min(left, max(end - time.monotonic(), 0.0))

    def _count_disturbed(self) -> int:
        return sum(map(self._disturbed, self.points))

    def _disturbed(self, point: Point) -> bool:
        row = self.rows.get(self.bench.key(point))
        return row is not None and row.is_disturbed

    def _is_disturbed(self, turn: Sequence[Point]) -> bool:
        return any(map(self._disturbed, turn))


def _badness(rows: Iterable[Row]) -> tuple[float, ...]:
    """What makes one measurement of the same points worse than another, worst first."""
    listed = list(rows)
    repeats = [bad for row in listed for bad in row.disturbed]
    return (
        sum(row.status != OK for row in listed),
        sum(row.is_disturbed for row in listed),
        sum(repeats) / max(1, len(repeats)),
    )


def describe(row: Row) -> str:
    """One line for people."""
    who = row.label
    where = f"{who:<12} {row.probe:<7} {row.sweep:<12} T={row.context_length:<6}"
    if row.process:
        where += f" process {row.process}"
    if row.status != OK:
        return f"{where} {row.status}: {row.error}"
    time = f"{typical(row.undisturbed) * 1e3:9.2f} ms"
    peak = "" if row.peak_bytes is None else f" {row.peak_bytes / 2**20:.0f} MiB"
    batch = "" if row.max_batch is None else f" largest batch {row.max_batch:,}"
    return f"{where} {time}{peak}{batch}{' disturbed' if row.is_disturbed else ''}"
