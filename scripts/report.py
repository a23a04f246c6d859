"""Rows to a page, figures and tables: `python scripts/report.py runs=[runs/probe]`."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from conf.launch import launch
from conf.schema import ReportConf
from probes.report import print_table, write_report


def main(conf: ReportConf) -> None:
    """Write the report and print its table."""
    runs = [Path(run) for run in conf.runs]
    out = Path(conf.out) if conf.out else runs[0] / "report"
    report = write_report(runs, out, conf.slope_from, conf.slope_to, conf.allow_mixed)
    print_table(report, Console())
    print(f"open {out / 'index.html'}")


if __name__ == "__main__":
    launch("report", main)
