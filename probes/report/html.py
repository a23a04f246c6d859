"""The page: one HTML file that works offline, with the rows, the styles and the script inside.

`page/page.html` is the body, with `{{names}}` filled in here; `page/page.js` draws the curves
from the JSON this file embeds. Tables and sentences are plain HTML, readable without the script.
All text comes from `probes.report.contents`, all curves from what `crossover.json` holds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from math import log2
from typing import Any

from probes.analysis.analysis import Analysis
from probes.analysis.dataset import Series
from probes.analysis.metrics import BY_KEY
from probes.analysis.ratios import ABOVE, BELOW, UNDECIDED
from probes.report import phrases, scaling_contents, scaling_html
from probes.report.contents import Chart, Contents, Ranges, Track, values
from probes.report.markup import colour, prose, table
from probes.report.rows_csv import COLUMNS, flat
from probes.report.tables import Method
from probes.report.template import framed, read

ACCOUNTS = {
    "money": "In pages of text and money",
    "latency": "Single tokens",
    "batches": "The largest batch in a fixed memory",
    "use": "Use of the device and energy",
}
"""Headings of the tables that are shown only if they have something to show."""


def page(analysis: Analysis, contents: Contents) -> str:
    """The whole file as text."""
    all_series = analysis.dataset.all_series
    parts = {
        "story": _story(contents),
        "ranges": _ranges(contents.ranges, analysis) if contents.ranges else "",
        "curves": prose(contents.curves),
        "chips": "".join(_chip(all_series, series) for series in all_series),
        "charts": "\n".join(_figure(place, chart) for place, chart in enumerate(contents.charts)),
        "accounts": _accounts(contents, all_series),
        "method": _method(contents.method),
        "raw": prose(contents.raw).replace("rows.csv", "<code>rows.csv</code>"),
        "data": embed(_data(analysis, contents)),
        "js": read("page.js"),
    }
    study = analysis.scaling
    parts["scaling"] = ""
    if study:
        study_page = scaling_contents.contents(study, analysis.dataset.trainings)
        parts["scaling"] = scaling_html.section(study, study_page)
    shown = ("losses", "models", "crossovers", "slopes", "failed")
    parts |= {name: table(contents.tables[name], all_series) for name in shown}
    return framed(
        read("page.html"),
        parts,
        contents.warnings,
        contents.title,
        contents.headline,
        contents.facts,
        contents.quiet,
        scripts=True,
    )


def embed(data: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


# ---- words and the picture of who is cheaper where -----------------------------------------------


def _story(contents: Contents) -> str:
    blocks = []
    for heading, paragraphs in contents.story:
        blocks.append(f"<h2>{escape(heading)}</h2>" if heading else "")
        blocks += [f"<p>{prose(text)}</p>" for text in paragraphs]
    return "\n".join(filter(None, blocks)).replace("<p>", '<p class="lead">', 1)


def _accounts(contents: Contents, all_series: Sequence[Series]) -> str:
    """A section for each of the further tables that has something to show."""
    return "\n".join(
        f'<section aria-labelledby="{key}"><h2 id="{key}">{title}</h2>\n'
        f"{table(contents.tables[key], all_series)}\n</section>"
        for key, title in ACCOUNTS.items()
        if key in contents.tables
    )


def _method(method: Method) -> str:
    items = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in method.facts.items())
    commands = escape("\n".join(method.commands))
    return (
        f"<p>{prose(method.text)}</p><dl>{items}<dt>Command</dt><dd><pre>{commands}</pre></dd></dl>"
    )


def _ranges(ranges: Ranges, analysis: Analysis) -> str:
    """One track per batch-1 comparison, coloured by who is cheaper."""
    low, high = ranges.ticks[0], ranges.ticks[-1]
    axis = "".join(
        f'<span style="left:{_percent(at, low, high)}">{at:,}</span>' for at in ranges.ticks
    )
    compared = [comparison for comparison in analysis.comparisons if comparison.kind != "missing"]
    compared = [comparison for comparison in compared if comparison.measure.sweep == "batch_1"]
    colours = [
        {side: colour(analysis.dataset.all_series, series) for side, series in (
            (BELOW, comparison.recurrent.series), (ABOVE, comparison.attention.series))}
        for comparison in compared
    ]  # fmt: skip
    tracks = "\n".join(
        _track(track, shades, low, high)
        for track, shades in zip(ranges.tracks, colours, strict=True)
    )
    return (
        '<section aria-labelledby="ranges"><h2 id="ranges">Who is cheaper, at which context length'
        f'</h2><p class="note">{prose(ranges.note)}</p><div class="ranges">{tracks}'
        f'<div class="range"><div class="spacer"></div><div class="axis" aria-hidden="true">{axis}'
        "</div></div></div></section>"
    )


def _percent(length: float, low: float, high: float) -> str:
    return f"{100 * log2(length / low) / log2(high / low):.2f}%"


def _track(track: Track, colours: dict[str, str], low: int, high: int) -> str:
    def span(css: str, start: float, end: float, style: str = "", text: str = "") -> str:
        width = 100 * log2(end / start) / log2(high / low)
        place = f"left:{_percent(start, low, high)};width:{width:.2f}%"
        return f'<span class="{css}" style="{place};{style}">{text}</span>'

    parts, labels = [], []
    for stretch in track.stretches:
        decided = stretch.side in (BELOW, ABOVE)
        open_as = "undecided" if stretch.side == UNDECIDED else "equal"
        css = "part" if decided else f"part {open_as}"
        style = f"--c:var(--{colours[stretch.side]})" if decided else ""
        parts.append(span(css, stretch.start, stretch.end, style))
        if log2(stretch.end / stretch.start) > 0.14 * log2(
            high / low
        ):  # too short for a name otherwise
            label = "label" if decided else "label open"
            labels.append(
                span(label, stretch.start, stretch.end, style, f"<b>{escape(stretch.text)}</b>")
            )
    for crossing in track.crossings:
        if crossing["low"] is not None and crossing["high"] is not None:
            parts.append(span("unsure", crossing["low"], crossing["high"]))
        place = _percent(crossing["length"], low, high)
        parts.append(f'<span class="at" style="left:{place}"></span>')
    label = escape(track.verdict, quote=True)
    return (
        f'<div class="range"><div class="what">{escape(track.title)}'
        f"<small>{prose(track.what)}</small></div>"
        f'<div class="track" role="img" aria-label="{label}">{"".join(parts + labels)}</div></div>'
    )


def _chip(all_series: Sequence[Series], series: Series) -> str:
    css = "chip" if series.recurrent else "chip square"
    return (
        f'<button type="button" class="{css}" data-arm="{escape(series.label)}" '
        f'aria-pressed="true" style="--c:var(--{colour(all_series, series)})"><i></i>'
        f"{escape(phrases.name(series))}</button>"
    )


# ---- charts --------------------------------------------------------------------------------------


def _figure(place: int, chart: Chart) -> str:
    return (
        f'<figure data-chart="{place}"><figcaption><h3>{escape(chart.title)}</h3>'
        f"<p>{prose(chart.caption)}</p></figcaption>"
        f'<div class="plot" tabindex="0" aria-label="{escape(chart.title)}, arrow keys read the '
        'points"><div class="canvas"></div><div class="tip" role="status" hidden></div></div>'
        f"<details><summary>The same as a table</summary>{table(chart.table)}</details>"
        "</figure>"
    )


def _data(analysis: Analysis, contents: Contents) -> dict[str, Any]:
    all_series = analysis.dataset.all_series
    return {
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
