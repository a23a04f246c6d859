"""The end of `scripts/report.py` on the screen: one table, then what is decided, in 80 columns."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap

from rich import box
from rich.console import Console
from rich.table import Table

from probes import compare, story, words
from probes.collect import Arm, Material
from probes.compare import DISTURBED, Curve, Finding
from probes.measures import BY_KEY, Measure

WIDTH = 80
MARK = "*"
SHOWN = ("train", "decode")
"""Measures of the table, where they were probed; the ratio stands beside the first."""
RATIO = "without processes that bursts hit or that only one of the two has"
TOLD_APART = 0.015
"""Relative; what two figures of three digits cannot hide."""


def print_summary(material: Material, findings: Sequence[Finding], console: Console) -> None:
    """The table of the first pair, the answer, and the verdicts that have a place in prose."""
    if table := _table(material, findings):
        console.print(table)
        marked = any(MARK in str(cell) for column in table.columns for cell in column.cells)
        if marked:
            say(f"{MARK} disturbed by other processes: decides nothing", console)
        if _apart(material, findings):
            say(f"ratio: {RATIO}", console)
    answer = story.headline(material, findings)
    if interval := story.answer_interval(findings):
        place, _, exceptions = answer.removesuffix(".").partition("; ")
        answer = f"{place} ({interval}){'; ' if exceptions else ''}{exceptions}."
    say(answer, console, style="bold")
    answered = story.answered_alone(findings)
    for one in findings:
        told = one.kind != "missing" or one.disturbed
        if one.measure.prose and told and one is not answered:
            say(f"{one.measure.key}: {words.verdict(one)}", console, indent="  ")
    if quiet := words.quiet(words.disturbance(material.rows)):
        say(quiet, console)


def _apart(material: Material, findings: Sequence[Finding]) -> bool:
    """Whether a ratio in the table is another number than the two beside it give."""
    keys = _keys(material.pairs[0]) if material.pairs else []
    if not keys:
        return False
    found = _finding(findings, BY_KEY[keys[0]], material.pairs[0])
    return found is not None and any(
        abs(mine / other / found.ratio(length) - 1) > TOLD_APART
        for length in found.intervals
        for mine, other in [words.values(found, length)]
    )


def say(text: str, console: Console, style: str | None = None, indent: str = "") -> None:
    """A sentence wrapped at 80 columns, or at the terminal's width where that is less."""
    width = min(WIDTH, console.width)
    for line in wrap(text, width, subsequent_indent=indent, break_on_hyphens=False):
        console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


def _table(material: Material, findings: Sequence[Finding]) -> Table | None:
    """Costs by context length of the first pair, or of up to two arms without a pair."""
    pair = material.pairs[0] if material.pairs else material.arms[:2]
    keys = _keys(pair)
    if not keys:
        return None
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left")
    if material.pairs:
        table.title = f"{words.name(pair[0])} against {words.name(pair[1])}, batch 1"
        if len(material.pairs) > 1:
            table.title += f" (1 of {len(material.pairs)} pairs)"
    columns = {key: [compare.curve(arm, BY_KEY[key]) for arm in pair] for key in keys}
    _heading(table, "context")
    for key, curves in columns.items():
        for one in curves:
            _heading(table, f"{key}\n{words.name(one.arm)}")
        if key == keys[0] and material.pairs:
            _heading(table, "ratio")
    found = _finding(findings, BY_KEY[keys[0]], pair)
    curves = [one for several in columns.values() for one in several]
    for length in sorted({point.length for one in curves for point in one.points}):
        cells = [f"{length:,}"]
        for key, several in columns.items():
            cells += [_cell(one, length, BY_KEY[key]) for one in several]
            if key == keys[0] and material.pairs:
                shared = found is not None and length in found.intervals
                cells.append(f"{found.ratio(length):.2f}" if found and shared else "")
        table.add_row(*cells)
    return table


def _keys(pair: Sequence[Arm]) -> list[str]:
    """Of the measures in the table: those shown, where they were probed, or the first probed."""
    probed = [key for key in BY_KEY if any(compare.curve(arm, BY_KEY[key]).points for arm in pair)]
    return [key for key in SHOWN if key in probed] or probed[:1]


def _heading(table: Table, text: str) -> None:
    table.add_column(text, justify="right", overflow="fold")


def _cell(one: Curve, length: int, measure: Measure) -> str:
    point = next((point for point in one.points if point.length == length), None)
    if point is None:
        return ""
    if point.status == DISTURBED:  # the word would not fit
        return f"{words.quantity(point.value, measure.unit)}{MARK}"
    return words.point_text(point, measure.unit)


def _finding(findings: Sequence[Finding], measure: Measure, pair: Sequence[Arm]) -> Finding | None:
    for one in findings:
        if one.measure == measure and [one.recurrent.arm, one.attention.arm] == list(pair):
            return one
    return None
