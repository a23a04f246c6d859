"""Rows to a page, figures and tables: `python scripts/report.py runs=[runs/probe]`."""

from __future__ import annotations

from scripts.cli.launch import launch

if __name__ == "__main__":  # before the imports that take long: a wrong word is answered at once
    launch("report", "scripts.report:main")

import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from conf.schema import ReportConf, WandbConf
from probes.analysis.costs import Price
from probes.report import trainings_files
from probes.report.foreign_reports import read_reports
from probes.report.machines import Others, show_crossings
from probes.report.rows_csv import COLUMNS, flat
from probes.report.write import FILES, Report, print_table, write_report
from scripts.cli.path_checks import group_place
from tracking.wandb_run import Tracker

CROSSOVER_COLUMNS = (
    "measure", "recurrent", "attention", "sweep", "kind", "length", "low", "high", "none_in_range",
    "multiplicity", "undecided_from", "undecided_to", "disturbed_points", "interval", "reason",
)  # fmt: skip
RATIO_COLUMNS = (
    "measure", "recurrent", "attention", "context_length", "value", "low", "high", "side",
)  # fmt: skip
CURVE_COLUMNS = (
    "measure", "model", "context_length", "status", "value", "unit", "per", "quarter",
    "three_quarters", "processes", "repeats",
)  # fmt: skip
SLOPE_COLUMNS = ("model", "measure", "value", "low", "high", "from", "to", "linear")


def main(conf: ReportConf) -> None:
    """Write the report, print its table, and add it to the sweep's wandb group."""
    runs = [group_place(run) for run in conf.runs]
    out = Path(conf.out) if conf.out else runs[0] / "report"
    price = None
    if conf.price_per_hour is not None:
        price = Price(conf.price_per_hour, str(conf.currency))
    others = None
    if conf.others:
        reports, problems = read_reports(conf.others)
        for problem in problems:
            print(problem, file=sys.stderr, flush=True)
        others = Others(tuple(reports), tuple(problems))
    report = write_report(
        runs, out, conf.slope_from, conf.slope_to, conf.allow_mixed, price, others
    )
    console = Console(markup=False, emoji=False)
    print_table(report, console)
    if others is not None:
        show_crossings(report.summary["others"]["crossovers"], console)
    print(f"open {out / 'index.html'}")
    track(conf.wandb, runs[0], report)


def track(conf: WandbConf, folder: Path, report: Report) -> None:
    """Tables of all rows and of what `crossover.json` holds, the page, and every file as one
    artifact."""
    group = folder.resolve().name
    with Tracker(
        conf,
        "report",
        group=group,
        job_type="report",
        identity=folder / "wandb" / "report.id",
        records=folder,
        config={"models": report.models},
    ) as tracker:
        if report.trainings:
            tracker.table(
                "report/trainings",
                trainings_files.COLUMNS,
                trainings_files.rows_of(report.trainings, report.analysis.price),
            )
        else:
            track_probes(tracker, report)
        tracker.page("report/page", report.out / "index.html")
        present = [report.out / name for name in FILES if (report.out / name).is_file()]
        tracker.artifact(f"report-{group}", "report", present)


def track_probes(tracker: Tracker, report: Report) -> None:
    """Tables of the rows and of what was concluded from them."""
    crossovers = crossover_rows(report.summary)
    quiet = report.summary["machine"].get("quiet") or {}
    tracker.table("report/rows", COLUMNS, map(flat, report.analysis.dataset.rows))
    tracker.table("report/crossovers", CROSSOVER_COLUMNS, crossovers)
    tracker.table("report/ratios", RATIO_COLUMNS, ratio_rows(report.summary))
    tracker.table("report/curves", CURVE_COLUMNS, curve_rows(report.summary))
    tracker.table("report/slopes", SLOPE_COLUMNS, slope_rows(report.summary))
    tracker.summary(
        {f"crossover/{row[0]}": row[5] for row in crossovers}
        | {f"measurements/{name}": count for name, count in quiet.items()}
    )


def crossover_rows(summary: dict[str, Any]) -> list[list[Any]]:
    """The crossovers of `crossover.json`, one row each; None where there is no length."""
    rows = []
    for key, entry in summary["crossovers"].items():
        first, last = entry.get("between") or (None, None)
        named = {
            **entry,
            "measure": key,
            "recurrent": entry["models"][0],
            "attention": entry["models"][1],
            "undecided_from": first,
            "undecided_to": last,
            "disturbed_points": len(entry["disturbed"]),
        }
        rows.append([named.get(column) for column in CROSSOVER_COLUMNS])
    return rows


def ratio_rows(summary: dict[str, Any]) -> list[list[Any]]:
    """The ratio of the costs at every length that was compared, with its interval and side."""
    return [
        [
            key,
            *entry["models"],
            int(length),
            ratio["value"],
            ratio["low"],
            ratio["high"],
            ratio["side"],
        ]
        for key, entry in summary["crossovers"].items()
        for length, ratio in entry.get("ratios", {}).items()
    ]


def curve_rows(summary: dict[str, Any]) -> list[list[Any]]:
    """The points of every curve."""
    return [
        [
            key, label, point["length"], point["status"], point["value"],
            curve["unit"], curve["per"],
            *(point["middle_half"] or (None, None)), point["processes"], point["repeats"],
        ]
        for key, curve in summary["curves"].items()
        for label, points in curve["points"].items()
        for point in points
    ]  # fmt: skip


def slope_rows(summary: dict[str, Any]) -> list[list[Any]]:
    """The slopes with their intervals and windows."""
    return [
        [label, key, slope["value"], slope["low"], slope["high"], *slope["window"], slope["linear"]]
        for label, by_measure in summary["slopes"].items()
        for key, slope in by_measure.items()
    ]
