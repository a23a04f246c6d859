"""The summary that `scripts/report.py` prints: one table, then what is decided, in 80 columns."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap

from rich import box
from rich.console import Console
from rich.table import Table

from core import units
from probes.analysis.analysis import Analysis
from probes.analysis.crossovers import DISTURBED, Comparison, Curve
from probes.analysis.dataset import Series
from probes.analysis.metrics import BY_KEY, Measure
from probes.report import answer, phrases

WIDTH = 80
MARK = "*"
SHOWN = ("train", "decode")
"""Measures of the table, where they were probed; the ratio stands beside the first."""
RATIO = "without processes that bursts hit or that only one of the two has"
TOLD_APART = 0.015
"""Relative difference that two figures of three digits must show."""


def print_summary(analysis: Analysis, console: Console) -> None:
    """The table of the first pair, the answer, and the verdicts that have a place in prose."""
    dataset, comparisons = analysis.dataset, analysis.comparisons
    if table := _table(analysis):
        console.print(table)
        marked = any(MARK in str(cell) for column in table.columns for cell in column.cells)
        if marked:
            say(f"{MARK} disturbed by other processes: decides nothing", console)
        # Whether a ratio in the table is another number than the two beside it give.
        keys = _keys(analysis, dataset.pairs[0]) if dataset.pairs else []
        shown = _comparison(comparisons, BY_KEY[keys[0]], dataset.pairs[0]) if keys else None
        if shown is not None and any(
            abs(mine / other / shown.ratio(length) - 1) > TOLD_APART
            for length in shown.intervals
            for mine, other in [phrases.values(shown, length)]
        ):
            say(f"ratio: {RATIO}", console)
    sentence = answer.headline(dataset, comparisons)
    if interval := answer.interval(comparisons):
        place, _, exceptions = sentence.removesuffix(".").partition("; ")
        sentence = f"{place} ({interval}){'; ' if exceptions else ''}{exceptions}."
    say(sentence, console, style="bold")
    answered = answer.alone(comparisons)
    for comparison in comparisons:
        has_verdict = comparison.kind != "missing" or comparison.disturbed
        if comparison.measure.prose and has_verdict and comparison is not answered:
            say(f"{comparison.measure.key}: {phrases.verdict(comparison)}", console, indent="  ")
    if quiet := phrases.quiet(analysis.machine.get("quiet")):
        say(quiet, console)


def say(text: str, console: Console, style: str | None = None, indent: str = "") -> None:
    """A sentence wrapped at 80 columns, or at the terminal's width where that is less."""
    width = min(WIDTH, console.width)
    for line in wrap(text, width, subsequent_indent=indent, break_on_hyphens=False):
        console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


def _table(analysis: Analysis) -> Table | None:
    """Costs by context length of the first pair, or of up to two series without a pair."""
    dataset, comparisons = analysis.dataset, analysis.comparisons
    pair = dataset.pairs[0] if dataset.pairs else dataset.all_series[:2]
    keys = _keys(analysis, pair)
    if not keys:
        return None
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left")
    if dataset.pairs:
        table.title = f"{phrases.name(pair[0])} against {phrases.name(pair[1])}, batch 1"
        if len(dataset.pairs) > 1:
            table.title += f" (1 of {len(dataset.pairs)} pairs)"
    columns = {key: [_curve(analysis, series, key) for series in pair] for key in keys}
    headings = ["context"]
    for key, curves in columns.items():
        headings += [f"{key}\n{phrases.name(curve.series)}" for curve in curves]
        if key == keys[0] and dataset.pairs:
            headings.append("ratio")
    for heading in headings:
        table.add_column(heading, justify="right", overflow="fold")
    comparison = _comparison(comparisons, BY_KEY[keys[0]], pair)
    curves = [curve for several in columns.values() for curve in several]
    for length in sorted({point.length for curve in curves for point in curve.points}):
        cells = [f"{length:,}"]
        for key, several in columns.items():
            for curve in several:
                cell = ""
                if point := next((p for p in curve.points if p.length == length), None):
                    cell = phrases.point_text(point, BY_KEY[key].unit)
                    if point.status == DISTURBED:  # the word would not fit
                        cell = f"{units.quantity(point.value, BY_KEY[key].unit)}{MARK}"
                cells.append(cell)
            if key == keys[0] and dataset.pairs:
                shared = comparison is not None and length in comparison.intervals
                cells.append(f"{comparison.ratio(length):.2f}" if comparison and shared else "")
        table.add_row(*cells)
    return table


def _keys(analysis: Analysis, pair: Sequence[Series]) -> list[str]:
    """Keys of the table's measures: those in `SHOWN` that were probed, or the first probed."""
    probed = [key for key in BY_KEY if any(_curve(analysis, series, key).points for series in pair)]
    return [key for key in SHOWN if key in probed] or probed[:1]


def _curve(analysis: Analysis, series: Series, key: str) -> Curve:
    """The curve of one series, without points where it was not probed."""
    return next(
        (curve for curve in analysis.curves.get(key, []) if curve.series == series),
        Curve(series, ()),
    )


def _comparison(
    comparisons: Sequence[Comparison], measure: Measure, pair: Sequence[Series]
) -> Comparison | None:
    for comparison in comparisons:
        if comparison.measure == measure and [
            comparison.recurrent.series,
            comparison.attention.series,
        ] == list(pair):
            return comparison
    return None
