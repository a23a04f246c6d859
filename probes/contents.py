"""Everything a report says, as text: what `probes.html` writes and `crossover.json` holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from probes import accounts, compare, costs, story, stretches, tables, words
from probes.compare import Curve, Finding, Point
from probes.markup import Table, plain
from probes.measures import MEASURES, Measure
from probes.stretches import Stretch
from probes.tables import Method

if TYPE_CHECKING:
    from probes.report import Report

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
class Track:
    """Who is cheaper where in one measure, for one pair."""

    title: str
    """Of the measure; empty where the track before has the same."""
    what: str
    verdict: str
    stretches: tuple[Stretch, ...]
    crossings: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Ranges:
    """All tracks, over lengths from the shortest to the longest."""

    note: str
    ticks: tuple[int, ...]
    tracks: tuple[Track, ...]


@dataclass(frozen=True)
class Chart:
    """The words of one chart; its points are in `curves` of `crossover.json`."""

    key: str
    title: str
    axis: str
    caption: str
    alt: str
    points: dict[str, list[dict[str, Any]]]
    """By arm and in order of the curve, what the tooltip says of each point."""
    crossings: tuple[dict[str, Any], ...]
    undecided: tuple[dict[str, Any], ...]
    ratios: tuple[dict[str, Any], ...]
    """By pair, the ratio at each length as the tooltip has it."""
    table: Table


@dataclass(frozen=True)
class Contents:
    """A page in order; `tables` by the id of their section."""

    title: str
    headline: str
    facts: tuple[str, ...]
    quiet: str
    warnings: tuple[str, ...]
    story: tuple[tuple[str, tuple[str, ...]], ...]
    """Headings, some empty, and the paragraphs below each."""
    ranges: Ranges | None
    curves: str
    charts: tuple[Chart, ...]
    tables: dict[str, Table]
    method: Method
    raw: str

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        found: dict[str, Any] = plain(self)
        blocks = [{"heading": head, "paragraphs": list(texts)} for head, texts in self.story]
        return found | {"story": blocks}


def contents(report: Report) -> Contents:
    """Of a report with probe rows; reads figures from what `crossover.json` holds already."""
    material, machine = report.material, report.summary["machine"]
    facts = (
        story.answer_interval(report.findings),
        machine["device"],
        f"threads: {machine['threads']}",
        machine["precision"],
        f"commit {machine['commit'][:12]}",
        machine["date"][:10],
    )
    found = [(head, tuple(texts)) for head, texts in story.story(material, report.findings)]
    if pages := costs.in_words(material, report.price):
        found.append(("", (pages,)))
    made = {
        "losses": accounts.losses(report),
        "contestants": tables.contestants(report),
        "crossovers": tables.crossovers(report),
        "slopes": tables.slopes(report),
        "money": accounts.money(report),
        "latency": accounts.latencies(report),
        "batches": accounts.batches(report),
        "use": accounts.efficiency(report),
        "failed": tables.failed(report),
    }
    return Contents(
        title="Crossover report: " + ", ".join(map(words.name, material.arms)),
        headline=story.headline(material, report.findings),
        facts=tuple(fact for fact in facts if fact),
        quiet=words.quiet(machine["quiet"]),
        warnings=tuple(words.warnings(material)),
        story=tuple(found),
        ranges=_ranges(report),
        curves=CURVES,
        charts=tuple(
            _chart(report, measure)
            for measure in MEASURES
            if compare.curves(material, measure)
        ),
        tables={name: table for name, table in made.items() if table.caption or table.lines},
        method=tables.method(report),
        raw=_raw(len(material.rows)),
    )  # fmt: skip


def _raw(count: int) -> str:
    rows = f"All {count:,} rows" if count > 1 else "The row"
    return (
        f"{rows} behind this page, every repeat included, {'are' if count > 1 else 'is'} inside "
        "this file and in rows.csv beside it."
    )


# ---- who is cheaper where ------------------------------------------------------------------------


def _ranges(report: Report) -> Ranges | None:
    """One track per batch-1 finding."""
    found = [
        one for one in report.findings
        if one.kind != "missing" and one.measure.sweep == "batch_1"
    ]  # fmt: skip
    if not found:
        return None
    lengths = sorted({length for one in found for length in one.lengths})
    every = -(-len(lengths) // 7)
    ticks = sorted({lengths[0], lengths[-1], *lengths[::every][:-1]})
    several = len(report.material.pairs) > 1
    tracks, told = [], set()
    for one in found:
        tracks.append(_track(one, one.measure not in told, several))
        told.add(one.measure)
    return Ranges(RANGES, tuple(ticks), tuple(tracks))


def _track(finding: Finding, titled: bool, several: bool) -> Track:
    places = ", ".join(words.tokens(one.length) for one in finding.crossings)
    told = [f"crosses at {places}"] if places else []
    if runs := words.undecided_runs(finding):
        told.append(words.not_decided(runs))
    what = "; ".join(told) or "no crossover in range"
    if several:
        what = f"{words.name(finding.recurrent.arm)} / {words.name(finding.attention.arm)}: {what}"
    return Track(
        finding.measure.title if titled else "",
        what,
        words.verdict(finding),
        tuple(stretches.stretches(finding)),
        tuple(_crossings([finding])),
    )


def _crossings(found: Sequence[Finding]) -> list[dict[str, Any]]:
    return [
        {
            "arms": _pair(one),
            "length": crossing.length,
            "low": crossing.low,
            "high": crossing.high,
            "text": words.tokens(crossing.length),
        }
        for one in found
        for crossing in one.crossings
    ]


def _pair(finding: Finding) -> list[str]:
    return [finding.recurrent.arm.label, finding.attention.arm.label]


# ---- charts --------------------------------------------------------------------------------------


def _chart(report: Report, measure: Measure) -> Chart:
    found = [one for one in report.findings if one.measure == measure]
    curves = compare.curves(report.material, measure)
    said = [words.verdict(one) for one in found]
    lost = [words.failures(one, measure) for one in curves]
    return Chart(
        key=measure.key,
        title=measure.title,
        axis=f"{'time' if measure.unit == 's' else 'bytes'} per {measure.per}",
        caption=" ".join([*(said if len(said) <= 2 else []), *filter(None, lost)]),
        alt=" ".join([measure.title + ".", *said]),
        points={one.arm.label: [_tip(point, measure.unit) for point in one.points]
                for one in curves},
        crossings=tuple(_crossings(found)),
        undecided=tuple(
            {"arms": _pair(one), "runs": runs, "text": words.not_decided(runs)}
            for one in found
            if (runs := words.undecided_runs(one))
        ),
        ratios=tuple(
            {"arms": _pair(one), "texts": {str(at): _ratio(one, at) for at in one.intervals}}
            for one in found
            if one.intervals
        ),
        table=tables.points(report, measure),
    )  # fmt: skip


def _tip(point: Point, unit: str) -> dict[str, Any]:
    """What is said of a point and, where there are several, of its repeats."""
    said: dict[str, Any] = {"text": words.point_text(point, unit)}
    if point.error:
        said["error"] = point.error
    if len(point.values) > 1:
        low, high = (words.quantity(end, unit) for end in point.quartiles)
        every = ", ".join(words.quantity(one, unit) for one in point.values)
        said |= {"half": f"middle half {low} to {high}", "repeats": f"repeats {every}"}
    return said


def _ratio(finding: Finding, length: int) -> str:
    """`RWKV-4 / GPT = 1.97 (1.90 to 2.04), dearer`."""
    one = finding.intervals[length]
    ends = ""
    if one.low == one.low:  # nan where points are single values
        ends = f" ({words.significant(one.low)} to {words.significant(one.high)})"
    pair = f"{words.name(finding.recurrent.arm)} / {words.name(finding.attention.arm)}"
    return f"{pair} = {words.significant(one.value)}{ends}, {words.SIDES[finding.sides[length]]}"


def values(curve: Curve) -> list[dict[str, Any]]:
    """The points of a curve as JSON values: `value` and `middle_half` null of a failed one."""
    found = []
    for point in curve.points:
        entry: dict[str, Any] = {"length": point.length, "status": point.status}
        entry |= {"value": None, "middle_half": None, "error": point.error}
        if point.processes:
            entry |= {"value": point.value, "middle_half": list(point.quartiles)}
        entry |= {"processes": len(point.processes), "repeats": len(point.values)}
        found.append(entry)
    return found
