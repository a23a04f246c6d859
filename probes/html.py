"""The page: one HTML file that works offline, with the rows, the styles and the script inside.

`page/page.html` is the skeleton, with `{{names}}` filled in here; `page/page.js` draws the curves
from the JSON this file embeds. Tables and sentences are plain HTML, readable without the script.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from html import escape
from math import log2
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probes import compare, words
from probes.collect import Arm
from probes.compare import Curve, Finding, Measure

if TYPE_CHECKING:
    from probes.report import Report

PAGE = Path(__file__).parent / "page"


def page(report: Report) -> str:
    """The whole file as text."""
    rows = report.material.rows
    charts = [measure for measure in compare.MEASURES if compare.curves(report.material, measure)]
    machine = report.summary["machine"]
    facts = (machine["device"], f"{machine['threads']} threads", machine["precision"])
    parts = {
        "title": "Crossover report: " + ", ".join(map(words.name, report.material.arms)),
        "headline": escape(words.headline(report.material, report.findings)),
        "meta": escape(" · ".join([*facts, f"commit {machine['commit'][:12]}", machine["date"]])),
        "story": _story(report),
        "ranges": _ranges(report),
        "chips": "".join(_chip(report, arm) for arm in report.material.arms),
        "charts": "\n".join(_figure(report, place, one) for place, one in enumerate(charts)),
        "contestants": _contestants(report),
        "crossovers": _crossovers(report),
        "slopes": _slopes(report),
        "method": _method(report),
        "failed": _failed(report),
        "row_count": str(len(rows)),
        "data": embed(_data(report, charts)),
        "css": (PAGE / "page.css").read_text(encoding="utf-8").strip(),
        "js": (PAGE / "page.js").read_text(encoding="utf-8").strip(),
    }
    skeleton = (PAGE / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], skeleton)


def embed(data: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def table(caption: str, headings: Sequence[str], rows: Iterable[str]) -> str:
    """A table of ready-made rows; a heading that starts with `#` is over numbers."""
    cells = "".join(
        f'<th scope="col" class="n">{escape(one[1:])}</th>'
        if one.startswith("#")
        else f'<th scope="col">{escape(one)}</th>'
        for one in headings
    )
    shown = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="scroll" tabindex="0"><table>{shown}<thead><tr>{cells}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def row(head: str, cells: Iterable[str], numbers: int = 0, css: str = "") -> str:
    """A table row: `head` is ready HTML, `cells` are text, the first `numbers` of them numeric."""
    body = "".join(
        f'<td class="n">{escape(cell)}</td>' if place < numbers else f"<td>{escape(cell)}</td>"
        for place, cell in enumerate(cells)
    )
    return f'<tr class="{css}"><th scope="row">{head}</th>{body}</tr>'


# ---- words and the picture of who is cheaper where -----------------------------------------------


def _story(report: Report) -> str:
    pairs, blocks = report.material.pairs, []
    for pair in pairs:
        first, *others = words.story(report.material, report.findings, pair)
        if len(pairs) > 1:
            title = f"{words.name(pair[0])} against {words.name(pair[1])}"
            blocks.append(f"<h2>{escape(title)}</h2>")
        blocks.append(f'<p class="lead">{escape(first)}</p>')
        blocks += [f"<p>{escape(text)}</p>" for text in others]
    return "\n".join(blocks)


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
    axis = "".join(
        f'<span style="left:{_percent(at, low, high)}">{at:,}</span>' for at in ticks
    )
    tracks = "\n".join(_track(report, one, low, high) for one in found)
    return (
        '<section aria-labelledby="ranges"><h2 id="ranges">Who is cheaper, at which context length'
        '</h2><p class="note">Batch of one sequence. The bar marks the crossover, the hatching its '
        f'95 % interval. Context length in tokens.</p><div class="ranges">{tracks}'
        f'<div class="range"><div class="spacer"></div><div class="axis" aria-hidden="true">{axis}'
        "</div></div></div></section>"
    )


def _percent(length: float, low: float, high: float) -> str:
    return f"{100 * log2(length / low) / log2(high / low):.2f}%"


def _track(report: Report, finding: Finding, low: int, high: int) -> str:
    def span(css: str, start: float, end: float, style: str = "", text: str = "") -> str:
        width = 100 * log2(end / start) / log2(high / low)
        place = f"left:{_percent(start, low, high)};width:{width:.2f}%"
        shown = escape(text) if width > 14 else ""
        return f'<span class="{css}" style="{place};{style}">{shown}</span>'

    edges = [finding.lengths[0], *(one.length for one in finding.crossings), finding.lengths[-1]]
    cheaper = finding.ratio(finding.lengths[0]) < 1
    parts = []
    for start, end in zip(edges, edges[1:], strict=False):
        arm = (finding.recurrent if cheaper else finding.attention).arm
        colour = f"--c:var(--{_colour(report, arm)})"
        text = "equal" if finding.kind == "equal" else words.name(arm)
        parts.append(span("part", start, end, colour, text) if end > start else "")
        cheaper = not cheaper
    for one in finding.crossings:
        if one.low is not None or one.high is not None:
            start, end = one.low or finding.lengths[0], one.high or finding.lengths[-1]
            parts.append(span("unsure", start, end))
        parts.append(f'<span class="at" style="left:{_percent(one.length, low, high)}"></span>')
    places = ", ".join(words.tokens(one.length) for one in finding.crossings)
    what = f"crosses at {places}" if places else "no crossover in range"
    if len(report.material.pairs) > 1:
        what = f"{words.name(finding.recurrent.arm)} / {words.name(finding.attention.arm)}: {what}"
    label = escape(words.verdict(finding), quote=True)
    return (
        f'<div class="range"><div class="what">{escape(finding.measure.title)}'
        f"<small>{escape(what)}</small></div>"
        f'<div class="track" role="img" aria-label="{label}">{"".join(parts)}</div></div>'
    )


def _colour(report: Report, arm: Arm) -> str:
    """Name of the CSS colour of an arm: cool ones for recurrent, warm ones for attention."""
    family = [one for one in report.material.arms if one.recurrent == arm.recurrent]
    return f"{'cool' if arm.recurrent else 'warm'}-{family.index(arm) % 4}"


def _swatch(report: Report, arm: Arm) -> str:
    css = "" if arm.recurrent else ' class="square"'
    return f'<i{css} style="--c:var(--{_colour(report, arm)})"></i>{escape(words.name(arm))}'


def _chip(report: Report, arm: Arm) -> str:
    css = "chip" if arm.recurrent else "chip square"
    return (
        f'<button type="button" class="{css}" data-arm="{escape(arm.label)}" aria-pressed="true" '
        f'style="--c:var(--{_colour(report, arm)})"><i></i>{escape(words.name(arm))}</button>'
    )


# ---- charts --------------------------------------------------------------------------------------


def _figure(report: Report, place: int, measure: Measure) -> str:
    found = [one for one in report.findings if one.measure == measure]
    said = [words.verdict(one) for one in found]
    lost = [words.failures(one) for one in compare.curves(report.material, measure)]
    caption = " ".join([*(said if len(said) <= 2 else []), *filter(None, lost)])
    return (
        f'<figure data-chart="{place}"><figcaption><h3>{escape(measure.title)}</h3>'
        f"<p>{escape(caption)}</p></figcaption>"
        f'<div class="plot" tabindex="0" aria-label="{escape(measure.title)}, arrow keys read the '
        'points"><div class="canvas"></div><div class="tip" role="status" hidden></div></div>'
        f"<details><summary>The same as a table</summary>{_points(report, measure)}</details>"
        "</figure>"
    )


def _points(report: Report, measure: Measure) -> str:
    drawn = compare.curves(report.material, measure)
    by_length = [{point.length: point for point in one.points} for one in drawn]
    rows = []
    for length in sorted({length for points in by_length for length in points}):
        cells = [
            words.point_text(points[length], measure.unit) if length in points else ""
            for points in by_length
        ]
        rows.append(row(f"{length:,}", cells, len(cells)))
    return table("", ["context, tokens", *(f"#{words.name(one.arm)}" for one in drawn)], rows)


def _data(report: Report, charts: Sequence[Measure]) -> dict[str, Any]:
    from probes.report import COLUMNS, flat

    return {
        "arms": [
            {
                "label": arm.label,
                "name": words.name(arm),
                "recurrent": arm.recurrent,
                "colour": _colour(report, arm),
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
    }


def _series(one: Curve) -> dict[str, Any]:
    points = []
    for point in one.points:
        entry: dict[str, Any] = {"length": point.length, "status": point.status}
        if point.status == "ok":
            low, high = point.quartiles
            entry |= {"median": point.median, "low": low, "high": high, "raw": list(point.values)}
        points.append(entry | {"error": point.error})
    return {"arm": one.arm.label, "points": points}


# ---- tables --------------------------------------------------------------------------------------


def _contestants(report: Report) -> str:
    rows = []
    for arm in report.material.arms:
        facts = report.summary["contestants"][arm.label]
        numbers = [
            f"{facts['parameters']:,}" if facts["parameters"] else "unknown",
            *_optional(facts, "val_loss", ".3f"),
            *_optional(facts, "bits_per_byte", ".3f"),
            *_optional(facts, "tokens_per_second", ",.0f"),
        ]
        kernels = "; ".join(f"{name}: {', '.join(k)}" for name, k in arm.backends().items())
        rows.append(row(_swatch(report, arm), [*numbers, kernels], len(numbers)))
    base = report.summary["baselines"]
    known = {
        "gzip -9": ["", "", *_optional(base, "gzip_bits_per_byte", ".3f"), ""],
        "xz -9": ["", "", *_optional(base, "xz_bits_per_byte", ".3f"), ""],
        "token frequencies alone": ["", *_optional(base, "unigram_entropy", ".3f"), "", ""],
    }
    rows += [
        row(name, [*cells, ""], 4, "baseline")
        for name, cells in known.items()
        if any(cell not in ("", "–") for cell in cells)
    ]
    headings = ["contestant", "#parameters", "#validation loss, nats/token", "#bits per byte",
                "#training tokens/s", "kernels"]  # fmt: skip
    note = "Lower loss and fewer bits per byte are better. Compressors and token frequencies, " \
        "which need no model, are given for scale."  # fmt: skip
    if not report.material.trainings:
        note = "No finished training was given, so how well they predict text is not known."
    return table(note, headings, rows)


def _optional(facts: dict[str, Any], name: str, style: str) -> list[str]:
    return [format(facts[name], style) if facts.get(name) is not None else "–"]


def _crossovers(report: Report) -> str:
    rows = []
    for one in report.findings:
        crossing = one.crossover
        length = words.tokens(crossing.length) if crossing else "none in range"
        shown = words.interval(crossing, one) if crossing else ""
        sweep = one.measure.sweep.replace("_", " ")
        cells = [length, shown.removeprefix("95 % interval "), sweep, words.verdict(one)]
        rows.append(row(escape(one.measure.title), cells, 1))
    caption = "From this context length on, the RWKV stays cheaper, up to the longest one measured."
    headings = ["measure", "#crossover, tokens", "95 % interval", "sweep", "in words"]
    return table(caption, headings, rows)


def _slopes(report: Report) -> str:
    titles = {measure.key: measure.title for measure in compare.MEASURES}
    arms = {arm.label: arm for arm in report.material.arms}
    rows = []
    for (label, key), one in report.slopes.items():
        window = f"{one.window[0]:,} to {one.window[1]:,}"
        claim = "yes" if one.linear else "not claimed"
        cells = [f"{one.value:.2f}", titles[key], words.bounds(one), window, claim]
        rows.append(row(_swatch(report, arms[label]), cells, 1))
    if not rows:
        return "<p>No curve has three finished points inside the window of the slope.</p>"
    caption = (
        "The exponent p of cost ~ T^p: 0 is constant, 1 linear, 2 quadratic; costs are per "
        "sequence, those of decode per generated token. Linear is claimed only if the interval of "
        "p contains 1 and that of the quadratic part contains 0."
    )
    headings = ["contestant", "#p", "measure", "95 % interval", "window, tokens", "linear"]
    return table(caption, headings, rows)


def _method(report: Report) -> str:
    machine = report.summary["machine"]
    memory = words.size_bytes(machine["memory_bytes"]) if machine["memory_bytes"] else "unknown"
    entries = {
        "Device": f"{machine['device']} ({machine['kind']}), {memory} of memory",
        "Threads": machine["threads"],
        "Precision": machine["precision"],
        "Versions": ", ".join(f"{name} {version}" for name, version in machine["versions"].items()),
        "Commit": machine["commit"],
        "Last point started": machine["date"],
        "Peak memory by": machine["peak_method"] or "not measured",
    }
    for arm in report.material.arms:
        used = []
        for probe in dict.fromkeys(one.probe for one in arm.rows):
            kernels = "; ".join(f"{n}: {', '.join(k)}" for n, k in arm.backends(probe).items())
            used.append(f"{probe} – {kernels or 'unknown'}")
        entries[f"Kernels of {words.name(arm)}"] = ", ".join(used)
    items = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in entries.items())
    commands = escape("\n".join(machine["command"]))
    return (
        "<p>Each point is measured in a process of its own, with a limit on time and memory, and "
        "repeated after an untimed warm-up. Values are medians; intervals are 95 % bootstrap "
        "intervals over the repeats. Times of training cover the forward and the backward pass."
        f"</p><dl>{items}<dt>Command</dt><dd><pre>{commands}</pre></dd></dl>"
    )


def _failed(report: Report) -> str:
    failed = report.summary["failures"]
    if not failed:
        return "<p>None: every point finished.</p>"
    rows = [
        row(
            escape(one["contestant"]),
            [
                f"{one['context_length']:,}", str(one["batch"]), one["probe"],
                one["sweep"].replace("_", " "), one["status"], one["error"] or "",
            ],
            2,
        )
        for one in failed
    ]  # fmt: skip
    headings = ["contestant", "#context, tokens", "#batch", "probe", "sweep", "status", "error"]
    return table("", headings, rows)
