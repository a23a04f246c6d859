"""Everything a report says, as text: what the page shows and `crossover.json` holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from core import units
from probes.analysis.analysis import Analysis
from probes.analysis.crossovers import Comparison, Curve, Point
from probes.analysis.metrics import MEASURES, Measure
from probes.report import (
    answer,
    cost_tables,
    first_screen,
    machines,
    narrative,
    phrases,
    quality_text,
    tables,
    winning_ranges,
    written,
)
from probes.report.first_screen import Feeling
from probes.report.machines import Others
from probes.report.markup import Table, plain
from probes.report.tables import Method
from probes.report.winning_ranges import Ranges, Track
from probes.report.written import Sample

CURVES = (
    "Every point is the lower quartile of its repeats, over several processes that of theirs; what "
    "other processes disturbed is left out. The shaded band spans the middle half of the same "
    "repeats taken together, so the curve runs along its lower edge or below it. Hover or tap a "
    "chart for the raw repeats; with the keyboard, focus it and use the arrow keys. A hollow point "
    "was disturbed in every process and takes no part in the curve; a hatched stretch is not "
    "decided, a grey one is the 95 % interval of a crossing. A cross at the top edge is a point "
    "that did not finish; a dashed one was not tried, because it could not. No curve is "
    "extrapolated."
)
RANGES = (
    "Batch of one sequence. The bar marks a crossover, the light hatching across it its 95 % "
    "interval; a hatched stretch in a dashed frame is not decided. Context length in tokens."
)


@dataclass(frozen=True)
class Chart:
    """The words of one chart; its points are in `curves` of `crossover.json`."""

    key: str
    title: str
    axis: str
    caption: str
    alt: str
    points: dict[str, list[dict[str, Any]]]
    """By series and in order of the curve, what the tooltip says of each point."""
    crossings: tuple[dict[str, Any], ...]
    undecided: tuple[dict[str, Any], ...]
    ratios: tuple[dict[str, Any], ...]
    """By pair, the ratio at each length as the tooltip has it."""


@dataclass(frozen=True)
class Contents:
    """A page in order; `tables` by the id of their section."""

    title: str
    headline: str
    facts: tuple[str, ...]
    quiet: str
    warnings: tuple[str, ...]
    first: str | None
    """Key of the chart on the first screen: that of the answer."""
    feeling: Feeling | None
    compared: tuple[str, ...]
    pages: str
    story: tuple[tuple[str, tuple[str, ...]], ...]
    """Headings, some empty, and the paragraphs below each."""
    ranges: Ranges | None
    written: str
    samples: tuple[Sample, ...]
    machines: Ranges | None
    """The crossovers of several reports, machine by machine."""
    curves: str
    charts: tuple[Chart, ...]
    tables: dict[str, Table]
    method: Method
    raw: str

    def plain(self) -> dict[str, Any]:
        """This page as JSON values."""
        page: dict[str, Any] = plain(self)
        blocks = [{"heading": head, "paragraphs": list(texts)} for head, texts in self.story]
        return page | {"story": blocks}


def contents(
    analysis: Analysis, found: Sequence[dict[str, Any]] = (), others: Others | None = None
) -> Contents:
    """The texts of an analysis with probe rows.

    `found` are the crossovers of `others` and of this report (`machines.entries`).
    """
    dataset, machine = analysis.dataset, analysis.machine
    facts = (
        answer.interval(analysis.comparisons),
        machine["device"],
        f"threads: {machine['threads']}",
        machine["precision"],
        f"commit {machine['commit'][:12]}",
        machine["date"][:10],
    )
    blocks = [
        (head, tuple(texts)) for head, texts in narrative.story(dataset, analysis.comparisons)
    ]
    made = {
        "losses": cost_tables.losses(analysis),
        "models": tables.models(analysis),
        "crossovers": tables.crossovers(analysis),
        "slopes": tables.slopes(analysis),
        "money": cost_tables.money(analysis),
        "latency": cost_tables.latencies(analysis),
        "batches": cost_tables.batches(analysis),
        "use": cost_tables.efficiency(analysis),
        "failed": tables.failed(analysis),
        "points": tables.points(analysis),
        "equal_quality": quality_text.table(quality_text.compared(analysis), analysis.price),
    }
    texts = written.samples(dataset)
    if others is not None:
        made["machines"] = machines.table(found, others)
    count = len(dataset.rows)
    rows = f"All {count:,} rows" if count > 1 else "The row"
    return Contents(
        title="Crossover report: " + ", ".join(map(phrases.name, dataset.all_series)),
        headline=answer.headline(dataset, analysis.comparisons),
        facts=tuple(fact for fact in facts if fact),
        quiet=phrases.quiet(machine["quiet"]),
        warnings=(*phrases.warnings(dataset), *(others.left_out if others else ())),
        first=_first(analysis),
        feeling=first_screen.feeling(analysis),
        compared=first_screen.compared(analysis),
        pages=cost_tables.pages_an_hour(analysis),
        story=tuple(blocks),
        ranges=_ranges(analysis),
        machines=machines.ranges(found),
        written=written.note(texts),
        samples=texts,
        curves=CURVES,
        charts=tuple(
            _chart(analysis, measure)
            for measure in MEASURES
            if measure.key in analysis.curves
        ),
        tables={name: table for name, table in made.items() if table.caption or table.lines},
        method=tables.method(analysis),
        raw=f"{rows} behind this page, every repeat included, {'are' if count > 1 else 'is'} "
        "inside this file and in rows.csv beside it.",
    )  # fmt: skip


def _first(analysis: Analysis) -> str | None:
    """The measure that the answer is about, or the first that has a curve."""
    measure = answer.answered(analysis.comparisons)
    if measure is not None and measure.key in analysis.curves:
        return measure.key
    return next(iter(analysis.curves), None)


# ---- who is cheaper where ------------------------------------------------------------------------


def _ranges(analysis: Analysis) -> Ranges | None:
    """One track per batch-1 comparison: which model needs less at which length."""
    drawn = [
        comparison for comparison in analysis.comparisons
        if comparison.kind != "missing" and comparison.measure.sweep == "batch_1"
    ]  # fmt: skip
    if not drawn:
        return None
    lengths = sorted({length for comparison in drawn for length in comparison.lengths})
    every = -(-len(lengths) // 7)
    ticks = sorted({lengths[0], lengths[-1], *lengths[::every][:-1]})
    several = len(analysis.dataset.pairs) > 1
    tracks, titled = [], set()
    for comparison in drawn:
        places = ", ".join(units.tokens(crossing.number) for crossing in comparison.crossings)
        parts = [f"crosses at {places}"] if places else []
        if runs := phrases.undecided_runs(comparison):
            parts.append(phrases.not_decided(runs))
        what = "; ".join(parts) or "no crossover in range"
        track = Track(
            title="" if comparison.measure in titled else comparison.measure.title,
            what=f"{phrases.pair(comparison)}: {what}" if several else what,
            verdict=phrases.verdict(comparison),
            stretches=tuple(winning_ranges.stretches(comparison)),
            crossings=tuple(_crossings([comparison])),
        )
        tracks.append(track)
        titled.add(comparison.measure)
    return Ranges(RANGES, tuple(ticks), tuple(tracks))


def _crossings(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    return [
        {
            "arms": _pair(comparison),
            "length": crossing.value,
            "low": crossing.low,
            "high": crossing.high,
            "text": units.tokens(crossing.number),
        }
        for comparison in comparisons
        for crossing in comparison.crossings
    ]


def _pair(comparison: Comparison) -> list[str]:
    return [comparison.recurrent.series.label, comparison.attention.series.label]


# ---- charts --------------------------------------------------------------------------------------


def _chart(analysis: Analysis, measure: Measure) -> Chart:
    comparisons = [
        comparison for comparison in analysis.comparisons if comparison.measure == measure
    ]
    curves = analysis.curves[measure.key]
    said = [phrases.verdict(comparison) for comparison in comparisons]
    lost = [phrases.failures(curve, measure) for curve in curves]
    return Chart(
        key=measure.key,
        title=measure.title,
        axis=f"{'time' if measure.unit == 's' else 'bytes'} per {measure.per}",
        caption=" ".join([*(said if len(said) <= 2 else []), *filter(None, lost)]),
        alt=" ".join([measure.title + ".", *said]),
        points={curve.series.label: [_tip(point, measure.unit) for point in curve.points]
                for curve in curves},
        crossings=tuple(_crossings(comparisons)),
        undecided=tuple(
            {"arms": _pair(comparison), "runs": runs, "text": phrases.not_decided(runs)}
            for comparison in comparisons
            if (runs := phrases.undecided_runs(comparison))
        ),
        ratios=tuple(
            {
                "arms": _pair(comparison),
                "texts": {str(at): _ratio(comparison, at) for at in comparison.intervals},
            }
            for comparison in comparisons
            if comparison.intervals
        ),
    )  # fmt: skip


def _tip(point: Point, unit: str) -> dict[str, Any]:
    """What is said of a point and, where there are several, of its repeats."""
    said: dict[str, Any] = {"text": phrases.point_text(point, unit)}
    if point.error:
        said["error"] = point.error
    if len(point.values) > 1:
        low, high = (units.quantity(end, unit) for end in point.quartiles)
        every = ", ".join(units.quantity(value, unit) for value in point.values)
        said |= {"half": f"middle half {low} to {high}", "repeats": f"repeats {every}"}
    return said


def _ratio(comparison: Comparison, length: int) -> str:
    """`RWKV-4 / GPT = 1.97 (1.90 to 2.04), dearer`."""
    ratio = comparison.intervals[length]
    ends = ""
    if ratio.ends:
        ends = f" ({' to '.join(map(units.significant, ratio.ends))})"
    side = phrases.SIDES[comparison.sides[length]]
    return f"{phrases.pair(comparison)} = {units.significant(ratio.number)}{ends}, {side}"


def values(curve: Curve) -> list[dict[str, Any]]:
    """The points of a curve as JSON values: `value` and `middle_half` null of a failed one."""
    points = []
    for point in curve.points:
        entry: dict[str, Any] = {"length": point.length, "status": point.status}
        entry |= {"value": None, "middle_half": None, "error": point.error}
        if point.processes:
            entry |= {"value": point.value, "middle_half": list(point.quartiles)}
        entry |= {"processes": len(point.processes), "repeats": len(point.values)}
        points.append(entry)
    return points
