"""One report from many rows: page, figures, `rows.csv`, `crossover.json`, a terminal table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console

from models.files import filling
from models.places import check_writable, writing
from probes import compare, figures, html, terminal, words
from probes.collect import Material, collect
from probes.compare import Finding, Slope
from probes.contents import Contents, contents
from probes.costs import Price
from probes.flat import csv_text
from probes.measures import MEASURES
from probes.scaling import contents as scaling_contents
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

    @cached_property
    def contents(self) -> Contents:
        """Everything the page says, where something was probed."""
        return contents(self)


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
    in `out` are left alone. Raises `UserError` as `collect` does, and if `out` cannot be written.
    """
    material = collect(runs, allow_mixed)
    check_writable(out, "out")
    report = analyse(material, out, (slope_from, slope_to), price)
    with writing(out, "out"):
        _save(report)
    return report


def _save(report: Report) -> None:
    """Write every file, all of them finished before the first is in its place."""
    material = report.material
    # The page comes last: when it is new, everything it stands beside is new too.
    with filling(report.out, last="index.html") as aside:
        _write(aside / "crossover.json", json.dumps(report.summary, indent=2) + "\n")
        _write(aside / "rows.csv", csv_text(material.rows))
        figures.draw_all(material, report.findings, aside)
        if report.scaling:
            scaling_figure.save(report.scaling, aside)
        page = _page(report)
        _write(aside / "index.html", page)


def _page(report: Report) -> str:
    material = report.material
    if report.scaling and not material.rows:
        return scaling_page.page(report.scaling, material.trainings, words.warnings(material))
    return html.page(report)


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
    scaling = study(material.trainings)
    report = Report(material, found, slopes, summary, out, price, scaling)
    if scaling:
        told = scaling_contents.contents(scaling, material.trainings)
        summary["scaling"] = record.plain(scaling) | {"page": told.plain()}
    if material.rows:
        summary["page"] = report.contents.plain()
    return report


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="")


# ---- terminal ------------------------------------------------------------------------------------


def print_table(report: Report, console: Console) -> None:
    """One small table and what is decided; everything else is in the files of the report."""
    for warning in words.warnings(report.material):
        terminal.say(warning, console, style="red")
    if report.material.rows:
        terminal.print_summary(report.material, report.findings, console)
    elif report.scaling:
        for table in record.terminal(report.scaling):
            console.print(table)
    if report.scaling:
        terminal.say(tell.headline(report.scaling), console, style="bold")
