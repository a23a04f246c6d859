"""One report from many rows: page, figures, `rows.csv`, `crossover.json`, a terminal table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from core.errors import UserError
from core.files import filling
from core.parsing import Unreadable, regular
from core.writable import check_writable, writing
from probes.analysis.analysis import Analysis, analyse
from probes.analysis.costs import Price
from probes.analysis.dataset import Dataset, collect
from probes.analysis.training_grid import Grid, grid
from probes.report import (
    figures,
    html,
    machines,
    phrases,
    quality_text,
    scaling_contents,
    scaling_figure,
    scaling_html,
    scaling_json,
    scaling_text,
    terminal,
    trainings_contents,
    trainings_files,
    trainings_html,
    trainings_text,
)  # fmt: skip
from probes.report.contents import Contents, contents
from probes.report.foreign_reports import digest_of
from probes.report.machines import Others
from probes.report.rows_csv import COLUMNS, csv_text, flat
from probes.report.summary_json import summarise

FILES = (
    "index.html",
    "crossover.json",
    "rows.csv",
    "trainings.json",
    "trainings.csv",
    *figures.FILES,
    scaling_figure.FILE,
)
"""Everything that any report consists of."""


@dataclass(frozen=True)
class Report:
    """An analysis in words, and where it is written."""

    analysis: Analysis
    contents: Contents | None
    """Everything the page says; None where nothing was probed."""
    summary: dict[str, Any]
    """The content of `crossover.json`."""
    out: Path
    trainings: Grid | None = None
    """The trainings, where nothing else was given."""

    @property
    def models(self) -> list[str]:
        """Labels of what it is about."""
        if self.trainings:
            return list(dict.fromkeys(arm.label for arm in self.trainings.arms))
        return list(self.summary["models"])


def write_report(
    runs: Sequence[Path],
    out: Path,
    slope_from: int,
    slope_to: int,
    allow_mixed: bool,
    price: Price | None = None,
    others: Others | None = None,
) -> Report:
    """Read the folders in `runs`, write the report to `out`, and return it.

    Crossovers of `others` stand beside this report's, machine by machine.

    Files are finished in a temporary folder beside `out` and then renamed one by one. What an
    earlier report in `out` consisted of and this one does not is deleted then; other files are left
    alone. Raises `UserError` as `collect` does, if `out` cannot be written, and if there are
    others and nothing was probed.
    """
    dataset = collect(runs, allow_mixed)
    if others is not None and not dataset.rows:
        raise UserError(
            f"others= puts crossovers of other machines beside those of runs=, where nothing was "
            f"probed: {', '.join(map(str, runs)):.200}"
        )
    check_writable(out, "out")
    report = compose(analyse(dataset, (slope_from, slope_to), price), out, others)
    if report.trainings:
        _write_trainings(report.trainings, dataset, out, price)
        return report
    # The page comes last: when it is new, everything it stands beside is new too.
    with writing(out, "out"), filling(out, "index.html", _former(out)) as aside:
        _write(aside / "crossover.json", json.dumps(report.summary, indent=2) + "\n")
        _write(aside / "rows.csv", csv_text(COLUMNS, map(flat, dataset.rows)))
        figures.draw_all(report.analysis, aside)
        if report.analysis.scaling:
            scaling_figure.save(report.analysis.scaling, aside)
        if report.contents:
            page = html.page(report.analysis, report.contents)
        else:
            study = report.analysis.scaling
            assert study is not None, "`collect` refuses what has neither rows nor a study"
            page = scaling_html.page(
                study, dataset.trainings, phrases.warnings(dataset), dataset.runs
            )
        _write(aside / "index.html", page)
    return report


def _write_trainings(found: Grid, dataset: Dataset, out: Path, price: Price | None) -> None:
    """The page of trainings alone, with its record beside it."""
    said = trainings_contents.contents(found, price)
    said = replace(said, warnings=(*phrases.warnings(dataset), *said.warnings))
    with writing(out, "out"), filling(out, "index.html", _former(out)) as aside:
        _write(aside / "trainings.json", trainings_files.json_text(found, said, price))
        _write(
            aside / "trainings.csv",
            csv_text(trainings_files.COLUMNS, trainings_files.rows_of(found, price)),
        )
        _write(aside / "index.html", trainings_html.page(found, said, price))


def _former(out: Path) -> Sequence[str]:
    """Names that are those of an earlier report, if there is one in `out`: its page says so."""
    try:
        with regular(out / "index.html") as file:
            return FILES if b"<title>Crossover report: " in file.read(4096) else ()
    except Unreadable:
        return ()


def compose(analysis: Analysis, out: Path, others: Others | None = None) -> Report:
    """The texts of an analysis; nothing is written."""
    dataset, scaling = analysis.dataset, analysis.scaling
    summary = summarise(analysis)
    if scaling:
        study_page = scaling_contents.contents(scaling, dataset.trainings, dataset.runs)
        summary["scaling"] = scaling_json.plain(scaling) | {"page": study_page.plain()}
    if analysis.equal_quality and dataset.rows:
        summary["equal_quality"] = quality_text.plain(
            quality_text.compared(analysis), analysis.price
        )
    found: list[dict[str, Any]] = []
    if others is not None:
        found = machines.entries(summary, others)
        summary["others"] = {"crossovers": found, "left_out": len(others.left_out)}
    said = contents(analysis, found, others) if dataset.rows else None
    if said:
        summary["page"] = said.plain()
    summary["digest"] = digest_of(summary)
    is_alone = not dataset.rows and not scaling
    return Report(analysis, said, summary, out, grid(dataset.runs) if is_alone else None)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="")


# ---- terminal ------------------------------------------------------------------------------------


def print_table(report: Report, console: Console) -> None:
    """One small table and what is decided; everything else is in the files of the report."""
    analysis, dataset = report.analysis, report.analysis.dataset
    for warning in phrases.warnings(dataset):
        terminal.say(warning, console, style="red")
    if dataset.rows:
        terminal.print_summary(analysis, console)
    elif analysis.scaling:
        for table in scaling_json.terminal(analysis.scaling):
            console.print(table)
    if report.trainings:
        for text in (
            trainings_text.headline(report.trainings),
            *trainings_text.paragraphs(report.trainings),
        ):
            terminal.say(text, console)
    if analysis.scaling:
        terminal.say(report.summary["scaling"]["page"]["headline"], console, style="bold")
        if analysis.scaling.spending:
            terminal.say(scaling_text.shared(analysis.scaling.spending), console)
