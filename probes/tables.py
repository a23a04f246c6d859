"""The tables of the page, as HTML, and the small helpers every part of the page writes with."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from probes import compare, words
from probes.collect import Arm
from probes.measures import MEASURES, Measure

if TYPE_CHECKING:
    from probes.report import Report


def prose(text: str) -> str:
    """Escaped text whose numbers stay on one line with their units, and names in one piece."""
    kept = re.sub(r"(\d) (?=%|(?:[µm]?s|min|[KMG]?i?B|tokens|times)\b)", "\\1\u00a0", escape(text))
    return re.sub(r"\bRWKV-\d", r'<span class="nowrap">\g<0></span>', kept)


def table(caption: str, headings: Sequence[str], rows: Iterable[str]) -> str:
    """A table of ready-made rows; a heading that starts with `#` is over numbers."""
    cells = "".join(
        f'<th scope="col" class="n">{escape(one[1:])}</th>'
        if one.startswith("#")
        else f'<th scope="col">{prose(one)}</th>'
        for one in headings
    )
    note = f'<p class="note">{prose(caption)}</p>' if caption else ""
    return (
        f'{note}<div class="scroll" tabindex="0"><table><thead><tr>{cells}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def row(head: str, cells: Iterable[str], numbers: int = 0, css: str = "") -> str:
    """A table row: `head` is ready HTML, `cells` are text, the first `numbers` of them numeric."""
    body = "".join(
        f'<td class="n">{escape(cell)}</td>' if place < numbers else f"<td>{prose(cell)}</td>"
        for place, cell in enumerate(cells)
    )
    return f'<tr class="{css}"><th scope="row">{head}</th>{body}</tr>'


def colour(report: Report, arm: Arm) -> str:
    """Name of the CSS colour of an arm: cool ones for recurrent, warm ones for attention."""
    family = [one for one in report.material.arms if one.recurrent == arm.recurrent]
    return f"{'cool' if arm.recurrent else 'warm'}-{family.index(arm) % 4}"


def swatch(report: Report, arm: Arm) -> str:
    """The name of an arm after a spot of its colour and shape."""
    css = "" if arm.recurrent else ' class="square"'
    return f'<i{css} style="--c:var(--{colour(report, arm)})"></i>{escape(words.name(arm))}'


def contestants(report: Report) -> str:
    """Size, quality and kernels of every arm, with what compressors reach for scale."""
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
        rows.append(row(swatch(report, arm), [*numbers, kernels], len(numbers)))
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


def crossovers(report: Report) -> str:
    """One row per finding: the crossover length and its interval, or why there is none."""
    several = len(report.material.pairs) > 1
    rows = []
    for one in report.findings:
        mine, other = words.name(one.recurrent.arm), words.name(one.attention.arm)
        crossing = one.crossover
        length = "none in range" if one.none_in_range else "not decided"
        if crossing:
            length = words.tokens(crossing.length)
        elif one.kind == "missing":
            length = ""
        shown = words.interval(crossing) if crossing else ""
        if shown.startswith(words.INTERVAL):
            shown = shown.removeprefix(words.INTERVAL).replace(" ", "\u00a0")
        note = words.reason(one) if one.kind == "missing" else f"{mine}: {one.note}"
        cells = [
            length,
            str(len(one.crossings)) if one.kind != "missing" else "",
            shown,
            f"{one.lengths[0]:,}\u00a0to\u00a0{one.lengths[-1]:,}" if one.lengths else "",
            one.measure.sweep.replace("_", " "),
            *([f"{mine} / {other}"] if several else []),
            note,
        ]
        rows.append(row(escape(one.measure.title), cells, 2))
    caption = (
        "From this context length on, the recurrent model stays cheaper wherever a side is "
        "decided, up to the longest one compared. Crossings counts the changes of order that are "
        "decided; with more than one there is no single crossover."
    )
    headings = ["measure", "#crossover, tokens", "#crossings", "95 % interval",
                "compared over, tokens", "sweep",
                *(["pair"] if several else []), "note"]  # fmt: skip
    return table(caption, headings, rows)


def slopes(report: Report) -> str:
    """The exponents of growth, with their intervals."""
    titles = {measure.key: measure.title for measure in MEASURES}
    arms = {arm.label: arm for arm in report.material.arms}
    rows = []
    for (label, key), one in report.slopes.items():
        window = f"{one.window[0]:,} to {one.window[1]:,}"
        claim = words.linearity(one)
        cells = [
            f"{one.value:.2f}",
            titles[key],
            words.bounds(one),
            window,
            claim,
            words.shape(one.growth),
        ]
        rows.append(row(swatch(report, arms[label]), cells, 1))
    if not rows:
        return "<p>No curve has three finished points inside the window of the slope.</p>"
    caption = (
        "The exponent p of cost ~ T^p: 0 is constant, 1 linear, 2 quadratic; costs are per "
        "sequence, those of decode per generated token. Linear means a + bT, a fixed part "
        "included: the interval of what a quadratic part adds at the longest length contains 0 "
        "and stays within 12 %, and that of the slope there, without the fixed part, reaches into "
        "0.85 to 1.15. "
        "The shape, over all lengths, is what AICc prefers of a + bT, a + bT log T and "
        "a + bT + cT², with its weight among the three; a constant cost leaves it undecided."
    )
    headings = ["contestant", "#p", "measure", "95 % interval", "window, tokens", "linear",
                "shape (weight)"]  # fmt: skip
    return table(caption, headings, rows)


def method(report: Report) -> str:
    """Machine, versions, kernels per probe, and the commands."""
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
    if machine["processes"] > 1:
        how = f"{machine['processes']} fresh processes spread over the sweep"
        value = "the lower quartile over processes of the lower quartiles over their repeats"
        over = "the processes and the repeats within them"
    else:
        how, value = "a process of its own", "the lower quartile of its repeats"
        over = "the repeats, widened by how far the points scatter about a smooth curve"
    return (
        f"<p>Each point is measured in {how}, with a limit on time and memory, and repeated after "
        "an untimed warm-up. Contestants take turns in a random order (seed "
        f"{escape(machine['seed'])}). A value is {value}; intervals are 95&nbsp;% bootstrap "
        f"intervals over {over}. Times of training cover the forward and the backward pass."
        f"</p><dl>{items}<dt>Command</dt><dd><pre>{commands}</pre></dd></dl>"
    )


def failed(report: Report) -> str:
    """Every point that did not finish, with its error."""
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


def points(report: Report, measure: Measure) -> str:
    """The values behind one chart."""
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
