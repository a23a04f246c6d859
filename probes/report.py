"""One report from many rows: page, figures, `rows.csv`, `crossover.json`, a terminal table."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from probes import compare, costs, figures, html, story, words
from probes.collect import Arm, Material, collect
from probes.compare import Finding, Slope
from probes.costs import Price
from probes.flat import csv_text
from probes.measures import MEASURES
from probes.scaling import figure as scaling_figure
from probes.scaling import page as scaling_page
from probes.scaling import record, tell
from probes.scaling.study import Study, study
from probes.summary import summarise


@dataclass(frozen=True)
class Report:
    """Everything the page, the files and the terminal table show."""

    material: Material
    findings: tuple[Finding, ...]
    slopes: dict[tuple[str, str], Slope]
    """By arm label and measure key; absent with fewer than three lengths in the window."""
    summary: dict[str, Any]
    """The content of `crossover.json`."""
    out: Path
    price: Price | None = None
    """What an hour of the machine costs, if the user said."""
    scaling: Study | None = None
    """What the trainings say, if they differ in compute."""


def write_report(
    runs: Sequence[Path],
    out: Path,
    slope_from: int,
    slope_to: int,
    allow_mixed: bool,
    price: Price | None = None,
) -> Report:
    """Read the folders in `runs`, write the report to `out`, and return it.

    Files are finished in a temporary folder beside `out` and then renamed one by one; other files
    in `out` are left alone. Raises `UserError` as `collect` does.
    """
    material = collect(runs, allow_mixed)
    report = analyse(material, out, (slope_from, slope_to), price)
    out.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        _write(aside / "crossover.json", json.dumps(report.summary, indent=2) + "\n")
        _write(aside / "rows.csv", csv_text(material.rows))
        figures.draw_all(material, report.findings, aside)
        if report.scaling:
            scaling_figure.save(report.scaling, aside)
        page = html.page(report) if material.rows else scaling_page.page(report)
        _write(aside / "index.html", page)
        # The page comes last: when it is new, everything it stands beside is new too.
        for path in sorted(aside.iterdir(), key=lambda path: path.name == "index.html"):
            path.replace(out / path.name)
    finally:
        shutil.rmtree(aside)
    return report


def analyse(
    material: Material, out: Path, window: tuple[int, int], price: Price | None = None
) -> Report:
    """Findings and slopes of the material; writes nothing."""
    found = tuple(compare.findings(material))
    slopes = {
        (one.arm.label, measure.key): fitted
        for measure in MEASURES
        for one in compare.curves(material, measure)
        if (fitted := compare.slope(one, measure, window))
    }
    summary = summarise(material, found, slopes, price)
    if scaling := study(material.trainings):
        summary["scaling"] = record.plain(scaling)
    return Report(material, found, slopes, summary, out, price, scaling)


def _write(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


# ---- terminal ------------------------------------------------------------------------------------


def print_table(report: Report, console: Console) -> None:
    """Costs per length for every pair, then crossovers and slopes."""
    for warning in words.warnings(report.material):
        console.print(warning, style="red", markup=False)
    for table in record.terminal(report.scaling) if report.scaling else []:
        console.print(table)
    if report.scaling:
        console.print(tell.headline(report.scaling), style="bold")
    if not report.material.rows:
        console.print(f"{report.out / 'index.html'}")
        return
    console.print(story.headline(report.material, report.findings), style="bold")
    for recurrent, attention in report.material.pairs:
        console.print(_pair_table(report, recurrent, attention))
    crossovers = Table(title="Crossovers", title_justify="left")
    for heading in ("measure", "sweep", "finding"):
        crossovers.add_column(heading)
    for one in report.findings:
        crossovers.add_row(one.measure.key, one.measure.sweep, words.verdict(one))
    console.print(crossovers)
    slopes = Table(title="Slopes: cost grows as T^p", title_justify="left")
    for heading in ("contestant", "measure", "p", "95 % interval", "window", "linear", "shape"):
        slopes.add_column(heading)
    for (label, key), fitted in report.slopes.items():
        window = f"{fitted.window[0]:,} to {fitted.window[1]:,}"
        linear = words.linearity(fitted)
        interval, shape = words.bounds(fitted), words.shape(fitted.growth)
        slopes.add_row(label, key, f"{fitted.value:.2f}", interval, window, linear, shape)
    console.print(slopes)
    if report.price:
        console.print(_cost_table(report, report.price))
    console.print(f"{report.out / 'index.html'}")


def _pair_table(report: Report, recurrent: Arm, attention: Arm) -> Table:
    """Rows are context lengths; per measure both costs, and the ratio of training times."""
    table = Table(title=f"{words.name(recurrent)} against {words.name(attention)}, batch 1")
    table.title_justify = "left"
    table.add_column("context", justify="right")
    wanted = {"train": "train", "decode": "decode", "memory": "peak memory"}
    found = {
        one.measure.key: one
        for one in report.findings
        if (one.recurrent.arm, one.attention.arm) == (recurrent, attention)
    }
    sides = []
    for key, heading in wanted.items():
        one = found[key]
        for side in (one.recurrent, one.attention):
            table.add_column(f"{heading}\n{side.arm.label}", justify="right")
            sides.append(({point.length: point for point in side.points}, one.measure.unit))
        if key == "train":
            table.add_column("ratio", justify="right")
            sides.append(({}, ""))
    train = found["train"]
    for length in sorted({length for points, _ in sides for length in points}):
        cells = [f"{length:,}"]
        for points, unit in sides:
            if not unit:
                cells.append(f"{train.ratio(length):.2f}" if length in train.lengths else "")
            else:
                cells.append(words.point_text(points[length], unit) if length in points else "")
        table.add_row(*cells)
    return table


def _cost_table(report: Report, price: Price) -> Table:
    """What a million tokens cost, one sequence at a time."""
    title = f"A million tokens at {price.text(price.per_hour)} an hour"
    table = Table(title=title, title_justify="left")
    for heading in ("contestant", "doing"):
        table.add_column(heading)
    for heading in ("context", "costs"):
        table.add_column(heading, justify="right")
    for arm in report.material.arms:
        for probe, doing in costs.DOING.items():
            for length, seconds in costs.seconds_per_token(arm, probe).items():
                amount = price.text(price.of_million(seconds))
                table.add_row(arm.label, doing, f"{length:,}", amount)
    return table
