"""The page: one HTML file that works offline, with the rows, the styles and the script inside.

`assets/page.html` is its template; `assets/page.js` draws the curves from the JSON this file
embeds. Tables and sentences are plain HTML, readable without the script. All text comes from
`probes.report.contents`, all curves from what `crossover.json` holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import log2
from typing import Any

from probes.analysis.analysis import Analysis
from probes.analysis.metrics import BY_KEY
from probes.analysis.ratios import ABOVE, BELOW, UNDECIDED
from probes.report import phrases, scaling_html
from probes.report.contents import Chart, Contents, values
from probes.report.markup import colour
from probes.report.rows_csv import COLUMNS, flat
from probes.report.template import render
from probes.report.winning_ranges import Track

ACCOUNTS = {
    "money": "In pages of text and money",
    "batches": "The largest batch in a fixed memory",
    "use": "Use of the device and energy",
}
"""Headings of the tables that are shown only if they have something to show."""
Span = tuple[str, str, str]
"""A part of a track: its CSS class, style and text."""


def page(analysis: Analysis, contents: Contents) -> str:
    """The whole file as text."""
    all_series = analysis.dataset.all_series
    data: dict[str, Any] = {
        "arms": [
            {
                "label": series.label,
                "name": phrases.name(series),
                "recurrent": series.recurrent,
                "colour": colour(all_series, series),
            }
            for series in all_series
        ],
        "charts": [_chart(analysis, chart) for chart in contents.charts],
        "columns": list(COLUMNS),
        "rows": [flat(row) for row in analysis.dataset.rows],
    }
    colours = {arm["label"]: arm["colour"] for arm in data["arms"]}
    study: dict[str, Any] = {"scaling": None}
    if analysis.scaling:
        study = scaling_html.section(
            analysis.scaling, analysis.dataset.trainings, analysis.dataset.runs
        )
    return render(
        "page.html",
        title=contents.title,
        headline=contents.headline,
        facts=contents.facts,
        quiet=contents.quiet,
        page=contents,
        first=next(
            (place for place, chart in enumerate(contents.charts) if chart.key == contents.first),
            None,
        ),
        costs={key: title for key, title in ACCOUNTS.items() if key in contents.tables},
        colours=colours,
        data=data,
        **_ranges(analysis, contents, colours),
        **_machines(contents),
        **study,
    )


# ---- which model needs less at which length ------------------------------------------------------


def _ranges(
    analysis: Analysis, contents: Contents, colours: Mapping[str, str]
) -> dict[str, list[Any]]:
    """Ticks of the axis, and one track per batch-1 comparison with its spans."""
    if contents.ranges is None:
        return {"ticks": [], "tracks": []}
    ticks = contents.ranges.ticks
    low, high = ticks[0], ticks[-1]
    compared = [
        {
            BELOW: colours[comparison.recurrent.series.label],
            ABOVE: colours[comparison.attention.series.label],
        }
        for comparison in analysis.comparisons
        if comparison.kind != "missing" and comparison.measure.sweep == "batch_1"
    ]
    return {
        "ticks": [(_percent(at, low, high), f"{at:,}") for at in ticks],
        "tracks": [
            (track, _spans(track, shades, low, high))
            for track, shades in zip(contents.ranges.tracks, compared, strict=True)
        ],
    }


def _machines(contents: Contents) -> dict[str, list[Any]]:
    """Ticks and tracks of the crossovers of several reports; these tracks have no stretches."""
    if contents.machines is None:
        return {"machine_ticks": [], "machine_tracks": []}
    ticks = contents.machines.ticks
    low, high = ticks[0], ticks[-1]
    return {
        "machine_ticks": [(_percent(at, low, high), f"{at:,}") for at in ticks],
        "machine_tracks": [
            (track, _spans(track, {}, low, high)) for track in contents.machines.tracks
        ],
    }


def _percent(length: float, low: float, high: float) -> str:
    return f"{100 * log2(length / low) / log2(high / low):.2f}%"


def _spans(track: Track, colours: Mapping[str, str], low: int, high: int) -> list[Span]:
    def span(css: str, start: float, end: float, style: str = "", text: str = "") -> Span:
        width = 100 * log2(end / start) / log2(high / low)
        return css, f"left:{_percent(start, low, high)};width:{width:.2f}%;{style}", text

    parts, labels = [], []
    for stretch in track.stretches:
        decided = stretch.side in (BELOW, ABOVE)
        open_as = "undecided" if stretch.side == UNDECIDED else "equal"
        css = "part" if decided else f"part {open_as}"
        style = f"--c:var(--{colours[stretch.side]})" if decided else ""
        parts.append(span(css, stretch.start, stretch.end, style))
        if log2(stretch.end / stretch.start) > 0.14 * log2(high / low):  # else too short for a name
            label = "label" if decided else "label open"
            labels.append(span(label, stretch.start, stretch.end, style, stretch.text))
    for crossing in track.crossings:
        if crossing["low"] is not None and crossing["high"] is not None:
            parts.append(span("unsure", crossing["low"], crossing["high"]))
        parts.append(("at", f"left:{_percent(crossing['length'], low, high)}", ""))
    return parts + labels


# ---- charts --------------------------------------------------------------------------------------


def _chart(analysis: Analysis, chart: Chart) -> dict[str, Any]:
    """What the script draws: the points of `crossover.json`, and what is said of them."""
    measure = BY_KEY[chart.key]
    series = [
        {
            "arm": curve.series.label,
            "points": [
                {
                    **{name: value[name] for name in DRAWN},
                    "raw": list(point.values),
                    "tip": chart.points[curve.series.label][place],
                }
                for place, (point, value) in enumerate(
                    zip(curve.points, values(curve), strict=True)
                )
            ],
        }
        for curve in analysis.curves[chart.key]
    ]
    return {
        "unit": measure.unit,
        "axis": chart.axis,
        "alt": chart.alt,
        "series": series,
        "crossings": chart.crossings,
        "undecided": chart.undecided,
        "ratios": chart.ratios,
    }


DRAWN = ("length", "status", "value", "middle_half")
