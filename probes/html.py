"""The page: one HTML file that works offline, with the rows, the styles and the script inside.

`page/page.html` is the body, with `{{names}}` filled in here; `page/page.js` draws the curves
from the JSON this file embeds. Tables and sentences are plain HTML, readable without the script.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from itertools import pairwise
from math import log2
from typing import TYPE_CHECKING, Any

from probes import accounts, compare, costs, story, tables, words
from probes.collect import Arm
from probes.compare import Curve, Finding
from probes.flat import COLUMNS, flat
from probes.frame import framed, read
from probes.measures import MEASURES, Measure
from probes.ratios import ABOVE, BELOW, EQUAL, UNDECIDED
from probes.scaling import page as scaling_page

if TYPE_CHECKING:
    from probes.report import Report


def page(report: Report) -> str:
    """The whole file as text."""
    rows = report.material.rows
    charts = [measure for measure in MEASURES if compare.curves(report.material, measure)]
    machine = report.summary["machine"]
    facts = (
        story.answer_interval(report.findings),
        machine["device"],
        f"threads: {machine['threads']}",
        machine["precision"],
        f"commit {machine['commit'][:12]}",
        machine["date"][:10],
    )
    parts = {
        "story": _story(report),
        "ranges": _ranges(report),
        "chips": "".join(_chip(report, arm) for arm in report.material.arms),
        "charts": "\n".join(_figure(report, place, one) for place, one in enumerate(charts)),
        "scaling": scaling_page.section(report.scaling),
        "losses": accounts.losses(report),
        "accounts": _accounts(report),
        "contestants": tables.contestants(report),
        "crossovers": tables.crossovers(report),
        "slopes": tables.slopes(report),
        "method": tables.method(report),
        "failed": tables.failed(report),
        "row_count": str(len(rows)),
        "data": embed(_data(report, charts)),
        "js": read("page.js"),
    }
    title = "Crossover report: " + ", ".join(map(words.name, report.material.arms))
    headline = story.headline(report.material, report.findings)
    body = read("page.html")
    quiet = words.quiet(machine["quiet"])
    return framed(body, parts, report.material, title, headline, facts, quiet, scripts=True)


def embed(data: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


# ---- words and the picture of who is cheaper where -----------------------------------------------


def _story(report: Report) -> str:
    blocks = []
    for heading, paragraphs in story.story(report.material, report.findings):
        blocks.append(f"<h2>{escape(heading)}</h2>" if heading else "")
        blocks += [f"<p>{tables.prose(text)}</p>" for text in paragraphs]
    blocks += [
        f"<p>{tables.prose(text)}</p>"
        for text in [costs.in_words(report.material, report.price)]
        if text
    ]
    return "\n".join(blocks).replace("<p>", '<p class="lead">', 1)


def _accounts(report: Report) -> str:
    """A section for each of the further tables that has something to show."""
    parts = {
        "money": ("In pages of text and money", accounts.money),
        "latency": ("Single tokens", accounts.latencies),
        "batches": ("The largest batch in a fixed memory", accounts.batches),
        "use": ("Use of the device and energy", accounts.efficiency),
    }
    found = {key: (title, make(report)) for key, (title, make) in parts.items()}
    return "\n".join(
        f'<section aria-labelledby="{key}"><h2 id="{key}">{title}</h2>\n{text}\n</section>'
        for key, (title, text) in found.items()
        if text
    )


def _ranges(report: Report) -> str:
    """One track per batch-1 finding, coloured by who is cheaper."""
    found = [
        one for one in report.findings
        if one.kind != "missing" and one.measure.sweep == "batch_1"
    ]  # fmt: skip
    if not found:
        return ""
    lengths = sorted({length for one in found for length in one.lengths})
    low, high = lengths[0], lengths[-1]
    every = -(-len(lengths) // 7)
    ticks = sorted({low, high, *lengths[::every][:-1]})
    axis = "".join(f'<span style="left:{_percent(at, low, high)}">{at:,}</span>' for at in ticks)
    first = [
        one.measure not in {before.measure for before in found[:n]} for n, one in enumerate(found)
    ]
    tracks = "\n".join(
        _track(report, one, low, high, titled) for one, titled in zip(found, first, strict=True)
    )
    return (
        '<section aria-labelledby="ranges"><h2 id="ranges">Who is cheaper, at which context length'
        '</h2><p class="note">Batch of one sequence. The bar marks the crossover, the hatching its '
        f"95 % interval; a hollow stretch is not decided. Context length in tokens.</p>"
        f'<div class="ranges">{tracks}'
        f'<div class="range"><div class="spacer"></div><div class="axis" aria-hidden="true">{axis}'
        "</div></div></div></section>"
    )


def _percent(length: float, low: float, high: float) -> str:
    return f"{100 * log2(length / low) / log2(high / low):.2f}%"


def _track(report: Report, finding: Finding, low: int, high: int, titled: bool) -> str:
    def span(css: str, start: float, end: float, style: str = "", text: str = "") -> str:
        width = 100 * log2(end / start) / log2(high / low)
        place = f"left:{_percent(start, low, high)};width:{width:.2f}%"
        return f'<span class="{css}" style="{place};{style}">{text}</span>'

    parts, labels = [], []
    for start, end, side in _stretches(finding):
        arm = (finding.recurrent if side == BELOW else finding.attention).arm
        decided = side in (BELOW, ABOVE)
        css = "part" if decided else "part undecided" if side == UNDECIDED else "part equal"
        colour = f"--c:var(--{tables.colour(report, arm)})" if decided else ""
        text = words.name(arm) if decided else "not decided" if side == UNDECIDED else "equal"
        parts.append(span(css, start, end, colour))
        if log2(end / start) > 0.14 * log2(high / low):  # too short for a name otherwise
            label = "label" if decided else "label open"
            labels.append(span(label, start, end, colour, f"<b>{escape(text)}</b>"))
    for one in finding.crossings:
        if one.low is not None or one.high is not None:
            start, end = one.low or finding.lengths[0], one.high or finding.lengths[-1]
            parts.append(span("unsure", start, end))
        parts.append(f'<span class="at" style="left:{_percent(one.length, low, high)}"></span>')
    places = ", ".join(words.tokens(one.length) for one in finding.crossings)
    what = f"crosses at {places}" if places else "no crossover in range"
    if runs := words.undecided_runs(finding):
        what = words.not_decided(runs)
    if len(report.material.pairs) > 1:
        what = f"{words.name(finding.recurrent.arm)} / {words.name(finding.attention.arm)}: {what}"
    label = escape(words.verdict(finding), quote=True)
    return (
        f'<div class="range"><div class="what">{escape(finding.measure.title) if titled else ""}'
        f"<small>{tables.prose(what)}</small></div>"
        f'<div class="track" role="img" aria-label="{label}">{"".join(parts + labels)}</div></div>'
    )


def _stretches(finding: Finding) -> list[tuple[float, float, str]]:
    """From, to and side of every stretch of the track, in order.

    The side between two measured lengths is theirs, where they agree, and changes at the crossing
    where one is decided between them; towards a length that is not decided nothing is.
    """
    edges: list[tuple[float, float, str]] = []
    crossings = [one.length for one in finding.crossings]
    decided = [(at, side) for at, side in finding.sides.items() if side in (BELOW, ABOVE)]
    # Between two decided lengths on different sides the crossing's own interval says how sure.
    across = [
        (before, after, at, sides)
        for (before, first), (after, second) in pairwise(decided)
        if first != second
        for at in crossings
        if before <= at <= after
        for sides in [(first, second)]
    ]
    for start, end in pairwise(finding.sides):
        for before, after, at, sides in across:
            if before <= start and end <= after:
                edges += [
                    (max(start, left), min(end, right), side)
                    for left, right, side in ((start, at, sides[0]), (at, end, sides[1]))
                    if max(start, left) < min(end, right)
                ]
                break
        else:
            first, second = finding.sides[start], finding.sides[end]
            edges.append((start, end, _between(first, second)))
    joined: list[tuple[float, float, str]] = []
    for left, right, side in edges:
        if joined and joined[-1][2] == side:
            joined[-1] = (joined[-1][0], right, side)
        else:
            joined.append((left, right, side))
    return joined


def _between(first: str, second: str) -> str:
    """The side between two measured lengths without a decided crossing."""
    if UNDECIDED in (first, second):
        return UNDECIDED
    return first if first == second or second == EQUAL else second


def _chip(report: Report, arm: Arm) -> str:
    css = "chip" if arm.recurrent else "chip square"
    return (
        f'<button type="button" class="{css}" data-arm="{escape(arm.label)}" aria-pressed="true" '
        f'style="--c:var(--{tables.colour(report, arm)})"><i></i>{escape(words.name(arm))}</button>'
    )


# ---- charts --------------------------------------------------------------------------------------


def _figure(report: Report, place: int, measure: Measure) -> str:
    found = [one for one in report.findings if one.measure == measure]
    said = [words.verdict(one) for one in found]
    lost = [words.failures(one, measure) for one in compare.curves(report.material, measure)]
    caption = " ".join([*(said if len(said) <= 2 else []), *filter(None, lost)])
    return (
        f'<figure data-chart="{place}"><figcaption><h3>{escape(measure.title)}</h3>'
        f"<p>{tables.prose(caption)}</p></figcaption>"
        f'<div class="plot" tabindex="0" aria-label="{escape(measure.title)}, arrow keys read the '
        'points"><div class="canvas"></div><div class="tip" role="status" hidden></div></div>'
        f"<details><summary>The same as a table</summary>{tables.points(report, measure)}</details>"
        "</figure>"
    )


def _data(report: Report, charts: Sequence[Measure]) -> dict[str, Any]:
    return {
        "arms": [
            {
                "label": arm.label,
                "name": words.name(arm),
                "recurrent": arm.recurrent,
                "colour": tables.colour(report, arm),
            }
            for arm in report.material.arms
        ],
        "pairs": [[one.label, other.label] for one, other in report.material.pairs],
        "charts": [_chart(report, measure) for measure in charts],
        "columns": list(COLUMNS),
        "rows": [flat(one) for one in report.material.rows],
    }


def _chart(report: Report, measure: Measure) -> dict[str, Any]:
    found = [one for one in report.findings if one.measure == measure]
    return {
        "unit": measure.unit,
        "axis": f"{'time' if measure.unit == 's' else 'bytes'} per {measure.per}",
        "alt": " ".join([measure.title + ".", *(words.verdict(one) for one in found)]),
        "series": [_series(one) for one in compare.curves(report.material, measure)],
        "crossings": [
            {
                "arms": [one.recurrent.arm.label, one.attention.arm.label],
                "length": crossing.length,
                "low": crossing.low,
                "high": crossing.high,
            }
            for one in found
            for crossing in one.crossings
        ],
        "undecided": [
            {
                "arms": [one.recurrent.arm.label, one.attention.arm.label],
                "runs": runs,
                "text": words.not_decided(runs),
            }
            for one in found
            if (runs := words.undecided_runs(one))
        ],
    }


def _series(one: Curve) -> dict[str, Any]:
    points = []
    for point in one.points:
        entry: dict[str, Any] = {"length": point.length, "status": point.status}
        if point.status in ("ok", compare.DISTURBED):
            low, high = point.quartiles
            entry |= {"median": point.value, "low": low, "high": high, "raw": list(point.values)}
        points.append(entry | {"error": point.error})
    return {"arm": one.arm.label, "points": points}
