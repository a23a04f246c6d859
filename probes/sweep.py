"""Measure every point of a sweep, in one or more child processes, into one `probes.jsonl`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from conf.schema import ProbeConf
from models.errors import UserError
from models.registry import ModelSpec
from probes import child, machine
from probes.bench import Bench
from probes.points import Point, left_out, list_points
from probes.rows import OK, Row, append_row, read_rows
from probes.tasks.common import DTYPES


def run_sweep(
    specs: Sequence[ModelSpec], conf: ProbeConf, path: Path, on_row: Callable[[Row], None]
) -> list[Row]:
    """One row for every point of `list_points(specs, conf)`, in that order, process by process.

    A process of a point that `path` already holds with status ok, on this device and with enough
    repeats, is not measured again. Every new row is on disk before `on_row` sees it, so the same
    call continues an interrupted sweep. A point that fails is a row too, the last one of its point:
    its further processes, which could not make it whole, are not started. A point that could only
    fail (`probes.predict`) is not tried, and its row says so.

    Raises `UserError` if the configuration makes no sense, before anything is measured.
    """
    if conf.precision not in DTYPES:
        raise UserError(f"precision={conf.precision!r}: choose from {', '.join(DTYPES)}")
    points = list_points(specs, conf)
    kind = machine.device_kind(conf.accelerator)
    known = read_rows(path)
    child.preload(["probes.measure", *{spec.target.rpartition(".")[0] for spec in specs}])
    bench = Bench(conf, kind)
    finished = {row.key: row for row in known if bench.usable(row)}
    for old in finished.values():
        bench.predictor.learn(old, 0)
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
    who = row.label
    where = f"{who:<12} {row.probe:<7} {row.sweep:<12} T={row.context_length:<7}"
    if row.process:
        where += f" process {row.process}"
    if row.status != OK:
        return f"{where} {row.status}: {row.error}"
    time = f"{median(row.seconds) * 1e3:10.2f} ms"
    spread = f"({min(row.seconds) * 1e3:.2f} to {max(row.seconds) * 1e3:.2f})"
    peak = "" if row.peak_bytes is None else f"  peak {row.peak_bytes / 2**20:.0f} MiB"
    batch = "" if row.max_batch is None else f"  largest batch {row.max_batch:,}"
    return f"{where} {time} {spread}{peak}{batch}"


def _reuse_notices(
    points: Sequence[Point], bench: Bench, finished: dict[str, Row], path: Path
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
