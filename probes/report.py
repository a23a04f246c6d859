"""One report from many rows: `index.html`, figures, `rows.csv`, `crossover.json`, a terminal table.

`crossover.json`
----------------
* `crossovers`: one entry per measure (`train`, `prefill`, `decode`, `memory`, `state`, and where
  the second sweep was run `train_fixed_tokens`, `prefill_fixed_tokens`). With more than one pair of
  contestants the keys read `train:rwkv7/gpt`. An entry holds `kind` (see `compare.Finding`),
  `contestants` (recurrent, attention), `sweep`, `interval`, a `reason` in words, and either
  `none_in_range: true` or the `length` in tokens from which the recurrent one stays cheaper, with
  `low` and `high`: null where that end lies outside the measured lengths, both null where a point
  is a single number. With `none_in_range` the same two say how far into the range a crossover may
  still lie, null where it may not. `multiplicity` counts how often the order changes, `crossings`
  lists where, if that is not simply the one, and `resamples_crossing` is the share of the bootstrap
  resamples that have a crossover in range.
* `slopes`: per contestant and measure the exponent of cost against length: `value`, `low`,
  `high`, `window` in tokens, and `linear`, claimed only if the slope's interval contains 1 and
  lies within 0.75 to 1.25, and that of the quadratic coefficient contains 0. `quadratic` is that
  coefficient, in seconds (or bytes) per squared token, with its interval; `aicc` the weights of
  the three shapes over all lengths, null with too few points.
* `scaling`: where the trainings differ in compute, the study `probes.scaling.record.plain`
  describes.
* `contestants`, `baselines`, `machine`, `failures`: what was compared, on what, and which points
  did not finish. `mixed`: what differs between rows that were compared all the same, with
  `allow_mixed`. `damaged`: lines that could not be read.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table

from probes import compare, figures, html, story, words
from probes.collect import Arm, Material, collect
from probes.compare import Finding, Slope
from probes.flat import csv_text
from probes.rows import Row
from probes.scaling import figure as scaling_figure
from probes.scaling import page as scaling_page
from probes.scaling import record, tell
from probes.scaling.study import Study, study

INTERVAL = "95 % bootstrap"


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
    scaling: Study | None = None
    """What the trainings say, if they differ in compute."""


def write_report(
    runs: Sequence[Path], out: Path, slope_from: int, slope_to: int, allow_mixed: bool
) -> Report:
    """Read the folders in `runs`, write the report to `out`, and return it.

    Files are finished in a temporary folder beside `out` and then renamed one by one; other files
    in `out` are left alone. Raises `UserError` as `collect` does.
    """
    material = collect(runs, allow_mixed)
    report = analyse(material, out, (slope_from, slope_to))
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


def analyse(material: Material, out: Path, window: tuple[int, int]) -> Report:
    """Findings and slopes of the material; writes nothing."""
    found = tuple(compare.findings(material))
    slopes = {
        (one.arm.label, measure.key): fitted
        for measure in compare.MEASURES
        for one in compare.curves(material, measure)
        if (fitted := compare.slope(one, measure, window))
    }
    summary = summarise(material, found, slopes)
    if scaling := study(material.trainings):
        summary["scaling"] = record.plain(scaling)
    return Report(material, found, slopes, summary, out, scaling)


def _write(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


# ---- crossover.json ------------------------------------------------------------------------------


def summarise(
    material: Material, found: Sequence[Finding], slopes: dict[tuple[str, str], Slope]
) -> dict[str, Any]:
    """The content of `crossover.json`, as described at the top of this file."""
    single = len(material.pairs) == 1
    by_arm: dict[str, dict[str, Any]] = {arm.label: {} for arm in material.arms}
    for (label, key), one in slopes.items():
        by_arm[label][key] = {
            "value": one.value,
            "low": one.low,
            "high": one.high,
            "window": list(one.window),
            "linear": one.linear,
            "quadratic": _quadratic(one),
            "aicc": one.growth.weights if one.growth else None,
        }
    return {
        "crossovers": {_key(one, single): _crossover(one) for one in found},
        "slopes": by_arm,
        "contestants": {arm.label: _contestant(material, arm) for arm in material.arms},
        "baselines": baselines(material),
        "mixed": list(material.mixed),
        "damaged": list(material.damaged),
        "machine": machine(material.rows),
        "failures": failures(material),
    }


def _quadratic(one: Slope) -> dict[str, float | None]:
    """c of `a + bT + cT^2` and its interval; None, not nan, where there is none."""
    fit = one.quadratic
    values = {"c": fit.c, "low": fit.c_low, "high": fit.c_high}
    return {name: None if isnan(value) else value for name, value in values.items()}


def _key(finding: Finding, single: bool) -> str:
    pair = f"{finding.recurrent.arm.label}/{finding.attention.arm.label}"
    return finding.measure.key if single else f"{finding.measure.key}:{pair}"


def _crossover(finding: Finding) -> dict[str, Any]:
    entry: dict[str, Any] = {"kind": finding.kind}
    if (crossing := finding.crossover) is not None:
        entry |= {"length": crossing.length, "low": crossing.low, "high": crossing.high}
    else:
        entry["none_in_range"] = True
        if finding.stays and finding.kind != "several":
            entry |= {"low": finding.stays.low, "high": finding.stays.high}
    if finding.stays:
        stays = finding.stays
        entry |= {"multiplicity": stays.crossings, "resamples_crossing": stays.crossing}
    if finding.kind in ("several", "reverse"):
        entry["crossings"] = [one.length for one in finding.crossings]
    return entry | {
        "reason": words.reason(finding),
        "contestants": [finding.recurrent.arm.label, finding.attention.arm.label],
        "sweep": finding.measure.sweep,
        "interval": INTERVAL,
    }


def _contestant(material: Material, arm: Arm) -> dict[str, Any]:
    """What one arm is and, over its finished trainings, how well it learned."""
    facts: dict[str, Any] = {
        "contestant": arm.contestant,
        "size": arm.size,
        "parameters": arm.parameters,
        "backends": arm.backends(),
    }
    if runs := material.trainings_of(arm):
        facts |= {
            "val_loss": fmean(run["val_loss"] for run in runs),
            "bits_per_byte": fmean(run["val_bits_per_byte"] for run in runs),
            "tokens_per_second": fmean(run["tokens_per_second"] for run in runs),
            "trained_tokens": runs[0].get("tokens"),
            "trainings": [run.get("name") for run in runs],
        }
    return facts


def baselines(material: Material) -> dict[str, float | None]:
    """What no model is needed for; None where no training gives it."""
    fields = ("unigram_entropy", "gzip_bits_per_byte", "xz_bits_per_byte")
    values = {
        field: [run[field] for run in material.trainings if run.get(field) is not None]
        for field in fields
    }
    return {field: fmean(found) if found else None for field, found in values.items()}


def machine(rows: Sequence[Row]) -> dict[str, Any]:
    """Where and with what the rows were measured; several values are joined by commas."""
    if not rows:
        return {}
    versions = sorted({name for row in rows for name in row.versions})
    return {
        "device": words.unique(row.device.get("name") for row in rows),
        "kind": words.unique(row.device.get("kind") for row in rows),
        "threads": words.unique(row.device.get("threads") for row in rows),
        "memory_bytes": max((row.device.get("memory_bytes") or 0 for row in rows), default=0),
        "precision": words.unique(row.precision for row in rows),
        "processes": 1 + max(row.process for row in rows),
        "seed": words.unique(row.seed for row in rows),
        "versions": {key: words.unique(row.versions.get(key) for row in rows) for key in versions},
        "commit": words.unique(row.commit for row in rows),
        "command": list(dict.fromkeys(row.command for row in rows)),
        "peak_method": words.unique(row.peak_method for row in rows),
        "date": max(str(row.started) for row in rows),
    }


def failures(material: Material) -> list[dict[str, Any]]:
    """Every point that did not finish, under the label of its arm."""
    fields = ("probe", "sweep", "context_length", "batch", "status", "error")
    return [
        {"contestant": arm.label, **{name: getattr(row, name) for name in fields}}
        for arm in material.arms
        for row in arm.rows
        if row.status != "ok"
    ]


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
        linear = "yes" if fitted.linear else "no"
        interval, shape = words.bounds(fitted), words.shape(fitted.growth)
        slopes.add_row(label, key, f"{fitted.value:.2f}", interval, window, linear, shape)
    console.print(slopes)
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
