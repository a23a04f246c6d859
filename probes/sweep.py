"""Measure every point of a sweep, in one or more child processes, into one `probes.jsonl`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from conf.schema import ProbeConf
from models.errors import UserError
from models.registry import ModelSpec
from probes import child, machine
from probes.measure import DTYPES, Task, calibrate, measure
from probes.points import Point, left_out, list_points
from probes.rows import OK, Row, append_row, label, read_rows

GIB = 1 << 30
CALIBRATE_SECONDS = 300.0  # importing torch from a cold disk can take a while


def run_sweep(
    specs: Sequence[ModelSpec], conf: ProbeConf, path: Path, on_row: Callable[[Row], None]
) -> list[Row]:
    """One row for every point of `list_points(specs, conf)`, in that order, process by process.

    A process of a point that `path` already holds with status ok, on this device and with enough
    repeats, is not measured again. Every new row is on disk before `on_row` sees it, so the same
    call continues an interrupted sweep. A point that fails is a row too, the last one of its point:
    its further processes, which could not make it whole, are not started.

    Raises `UserError` if the configuration makes no sense, before anything is measured.
    """
    if conf.precision not in DTYPES:
        raise UserError(f"precision={conf.precision!r}: choose from {', '.join(DTYPES)}")
    points = list_points(specs, conf)
    kind = machine.device_kind(conf.accelerator)
    known = read_rows(path)
    child.preload(["probes.measure", *{spec.target.rpartition(".")[0] for spec in specs}])
    bench = _Bench(conf, kind)
    finished = {row.key: row for row in known if _usable(row, conf)}
    rows: list[Row] = []
    failed: set[str] = set()
    with _progress() as progress:
        say = progress.console.print
        for notice in left_out(conf) + _reuse_notices(points, bench, finished, path):
            say(notice, markup=False, highlight=False, soft_wrap=True)
        bar = progress.add_task("", total=len(points))
        for point in points:
            progress.update(bar, description=str(point))
            row = finished.get(bench.row(point).key)
            whole = bench.row(replace(point, process=0)).key
            if row is None and whole in failed:
                progress.advance(bar)
                continue
            if row is None:
                row = bench.measure(point)
                append_row(path, row)
                say(describe(row), markup=False, highlight=False, soft_wrap=True)
                on_row(row)
            rows.append(row)
            if row.status != OK:
                failed.add(whole)
            progress.advance(bar)
    return rows


def describe(row: Row) -> str:
    """One line for people."""
    who = label(row.contestant, row.config)
    where = f"{who:<12} {row.probe:<7} {row.sweep:<12} T={row.context_length:<7}"
    if row.process:
        where += f" process {row.process}"
    if row.status != OK:
        return f"{where} {row.status}: {row.error}"
    time = f"{median(row.seconds) * 1e3:10.2f} ms"
    spread = f"({min(row.seconds) * 1e3:.2f} to {max(row.seconds) * 1e3:.2f})"
    peak = "" if row.peak_bytes is None else f"  peak {row.peak_bytes / 2**20:.0f} MiB"
    return f"{where} {time} {spread}{peak}"


class _Bench:
    """What stays the same during a sweep: configuration, machine, the import-only child."""

    def __init__(self, conf: ProbeConf, kind: str) -> None:
        outcome = child.run(calibrate, (kind, conf.threads), CALIBRATE_SECONDS)
        if outcome.status != OK:
            raise UserError(f"a process that only imports torch fails here: {outcome.error}")
        self.conf = conf
        self.facts = outcome.facts
        self.versions = machine.versions()
        self.command = shlex.join([Path(sys.executable).name, *sys.argv])

    def measure(self, point: Point) -> Row:
        """Run the point in a child. Never raises for what happens there."""
        started = datetime.now(UTC).isoformat(timespec="seconds")
        load = psutil.getloadavg()[0]
        outcome = child.run(measure, (self._task(point),), self.conf.timeout_s)
        return self.row(
            point,
            status=outcome.status,
            error=outcome.error,
            started=started,
            load_before=load,
            **outcome.facts,
        )

    def row(self, point: Point, **fields: Any) -> Row:
        """The row of a point with what is known before measuring it, then `fields`."""
        nothing: dict[str, Any] = dict.fromkeys(
            ("error", "parameters", "peak_bytes", "state_bytes", "flops", "flops_dense")
        )
        known: dict[str, Any] = {
            "probe": point.probe,
            "sweep": point.sweep,
            "contestant": point.spec.name,
            "size": point.spec.size,
            "target": point.spec.target,
            "config": dict(point.spec.config),
            "context_length": point.length,
            "batch": point.batch,
            "process": point.process,
            "status": "",
            "seconds": [],
            "peak_method": self.facts["peak_method"],
            "backends": {},
            "precision": self.conf.precision,
            "seed": self.conf.seed,
            "device": self.facts["device"],
            "versions": self.versions,
            "commit": self.versions["crossover"],
            "load_before": 0.0,
            "started": "",
            "command": self.command,
        }
        return Row(**(nothing | known | fields))

    def _task(self, point: Point) -> Task:
        conf, kind = self.conf, self.facts["device"]["kind"]
        return Task(
            spec=point.spec,
            probe=point.probe,
            batch=point.batch,
            length=point.length,
            vocab_size=conf.vocab_size,
            seed=conf.seed,
            repeats=conf.repeats,
            warmup=conf.warmup,
            decode_steps=conf.decode_steps,
            precision=conf.precision,
            device=kind,
            threads=conf.threads,
            memory_bytes=_memory_limit(conf, self.facts["device"]),
            baseline_bytes=self.facts["baseline_bytes"],
        )


def _memory_limit(conf: ProbeConf, device: dict[str, Any]) -> int:
    """Bytes one point may allocate: as configured, or all that is available now."""
    if conf.memory_gib:
        return int(conf.memory_gib * GIB)
    if device["kind"] == "cuda":
        return device["memory_bytes"]
    return psutil.virtual_memory().available


def _usable(row: Row, conf: ProbeConf) -> bool:
    """Whether a row found in the file spares measuring its point again."""
    return row.status == OK and len(row.seconds) >= conf.repeats


def _reuse_notices(
    points: Sequence[Point], bench: _Bench, finished: dict[str, Row], path: Path
) -> list[str]:
    """Say how much is not measured again, and whether it was measured with other code."""
    reused = [finished[key] for point in points if (key := bench.row(point).key) in finished]
    if not reused:
        return []
    notice = f"{len(reused)} of {len(points)} points are in {path} already and are kept"
    other = sum(row.commit != bench.versions["crossover"] for row in reused)
    if other:
        notice += f"; {other} of them were measured at another commit (a new group starts afresh)"
    return [notice]


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(),
        transient=True,
    )
