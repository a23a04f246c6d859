"""The tables of what was compared and found, as text (`probes.report.markup` writes them)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from core import units
from probes.analysis.analysis import Analysis
from probes.analysis.crossovers import BEND, LOCAL
from probes.analysis.metrics import BY_KEY, MEASURES
from probes.report import phrases
from probes.report.markup import Line, Table, of_series


def models(analysis: Analysis) -> Table:
    """Size, quality and kernels of every series, with what compressors reach for scale."""
    lines = []
    for series in analysis.dataset.all_series:
        facts = analysis.models[series.label]
        numbers = [
            f"{facts['parameters']:,}" if facts["parameters"] else "unknown",
            *_optional(facts, "val_loss", ".3f"),
            *_optional(facts, "bits_per_byte", ".3f"),
            *_optional(facts, "tokens_per_second", ",.0f"),
        ]
        kernels = "; ".join(f"{name}: {', '.join(k)}" for name, k in series.backends().items())
        lines.append(of_series(series, [*numbers, kernels], len(numbers)))
    base = analysis.baselines
    scales = {
        "gzip -9": ["", "", *_optional(base, "gzip_bits_per_byte", ".3f"), ""],
        "xz -9": ["", "", *_optional(base, "xz_bits_per_byte", ".3f"), ""],
        "token frequencies alone": ["", *_optional(base, "unigram_entropy", ".3f"), "", ""],
    }
    scale = [
        Line(name, (*cells, ""), 4, css="baseline")
        for name, cells in scales.items()
        if any(cell not in ("", "–") for cell in cells)
    ]
    headings = ("model", "#parameters", "#validation loss, nats/token", "#bits per byte",
                "#training tokens/s", "kernels")  # fmt: skip
    note = (
        "No finished training with a validation loss was given, so how well they predict is not "
        "known."
    )
    if analysis.dataset.trainings:
        note = "Lower loss and fewer bits per byte are better."
    if scale:
        note += " What needs no model is given for scale."
    return Table(note, headings, (*lines, *scale))


def _optional(facts: dict[str, Any], name: str, style: str) -> list[str]:
    return [format(facts[name], style) if facts.get(name) is not None else "–"]


def crossovers(analysis: Analysis) -> Table:
    """One row per comparison: the crossover length and its interval, or why there is none."""
    several = len(analysis.dataset.pairs) > 1
    if not analysis.comparisons:
        return Table("A crossover needs a recurrent and an attention model.")
    caption = (
        "From this context length on, the recurrent model stays cheaper wherever a side is "
        "decided, up to the longest one compared. Crossings counts the changes of order that are "
        "decided; with more than one there is no single crossover."
    )
    headings = ("measure", "#crossover, tokens", "#crossings", "95 % interval",
                "compared over, tokens", "sweep",
                *(["pair"] if several else []), "note")  # fmt: skip
    lines = []
    for comparison in analysis.comparisons:
        crossing, missing = comparison.crossover, comparison.kind == "missing"
        length = "none in range" if comparison.none_in_range else "not decided"
        if crossing:
            length = units.tokens(crossing.number)
        elif missing:
            length = ""
        interval = phrases.interval(crossing).removeprefix(phrases.INTERVAL) if crossing else ""
        ends = [
            units.tokens(end) for end in sorted({*comparison.lengths[:1], *comparison.lengths[-1:]})
        ]
        cells = [
            length,
            "" if missing else str(len(comparison.crossings)),
            interval,
            " to ".join(ends),
            comparison.measure.sweep.replace("_", " "),
            *([phrases.pair(comparison)] if several else []),
            phrases.reason(comparison)
            if missing
            else f"{phrases.name(comparison.recurrent.series)}: {comparison.note}",
        ]
        lines.append(Line(comparison.measure.title, tuple(cells), 2))
    return Table(caption, headings, tuple(lines))


def slopes(analysis: Analysis) -> Table:
    """The exponents of growth, with their intervals."""
    titles = {measure.key: measure.title for measure in MEASURES}
    all_series = {series.label: series for series in analysis.dataset.all_series}
    lines = []
    for (label, key), slope in analysis.slopes.items():
        cells = [
            f"{slope.exponent.number:.2f}",
            titles[key],
            phrases.bounds(slope),
            f"{slope.window[0]:,} to {slope.window[1]:,}",
            phrases.linearity(slope),
            phrases.shape(slope.growth),
        ]
        lines.append(of_series(all_series[label], cells, 1))
    if not lines:
        return Table("No curve has three points that count inside the window of the slope.")
    caption = (
        "The exponent p of cost ~ T^p: 0 is constant, 1 linear, 2 quadratic; costs are per "
        "sequence, those of decode and of the largest batch per generated token. Linear means "
        "a + bT, a fixed part included: the interval of what a quadratic part adds at the longest "
        f"length contains 0 and stays within {100 * BEND:.0f} %, and that of the slope there, "
        f"without the fixed part, reaches into {LOCAL[0]} to {LOCAL[1]}. The shape, over all "
        "lengths, is what AICc prefers of a + bT, a + bT log T and a + bT + cT², with its weight "
        "among the three; a constant cost leaves it undecided."
    )
    headings = ("model", "#p", "measure", "95 % interval", "window, tokens", "linear",
                "shape (weight)")  # fmt: skip
    return Table(caption, headings, tuple(lines))


@dataclass(frozen=True)
class Method:
    """How it was measured: a paragraph, facts by name, and the commands."""

    text: str
    facts: dict[str, str]
    commands: tuple[str, ...]


def method(analysis: Analysis) -> Method:
    """Machine, versions, kernels per probe, and the commands."""
    machine = analysis.machine
    memory = units.size_bytes(machine["memory_bytes"]) if machine["memory_bytes"] else "unknown"
    facts = {
        "Device": f"{machine['device']} ({machine['kind']}), {memory} of memory",
        "Threads": machine["threads"],
        "Precision": machine["precision"],
        "Versions": ", ".join(f"{name} {version}" for name, version in machine["versions"].items()),
        "Commit": machine["commit"],
        "Last point started": machine["date"],
        "Peak memory by": machine["peak_method"] or "not measured",
    }
    for series in analysis.dataset.all_series:
        used = []
        for probe in dict.fromkeys(row.probe for row in series.rows):
            kernels = "; ".join(f"{n}: {', '.join(k)}" for n, k in series.backends(probe).items())
            used.append(f"{probe} – {kernels or 'unknown'}")
        facts[f"Kernels of {phrases.name(series)}"] = ", ".join(used)
    machine = analysis.machine
    few, many = machine["processes_of_a_point"]
    if many > 1:
        count = str(many) if few == many else f"{few} to {many}"
        how = f"{count} fresh processes spread over the sweep"
        value = (
            "the lower quartile, over the processes that others left undisturbed, of the lower "
            "quartiles of their repeats"
        )
        over = "the processes"
    else:
        how, value = "a process of its own", "the lower quartile of its undisturbed repeats"
        over = "the repeats, widened by how far the points scatter about a smooth curve"
    intervals = f"Intervals are 95 % bootstrap intervals over {over}."
    if many == 1 and machine["repeats_of_a_process"] in ([], [1, 1]):
        value, intervals = "the one repeat", "Single values have no interval."
    turns = ""
    if len(analysis.dataset.all_series) > 1:
        turns = f" Models take turns in a random order (seed {machine['seed']})."
    return Method(
        f"Each point is measured in {how}, with a limit on time and memory, and repeated after an "
        f"untimed warm-up.{turns} A value is {value}; a point whose processes were all disturbed "
        f"takes no part in anything. {intervals} A ratio is taken from processes measured "
        "side by side, without those that a burst has hit, so it can differ from that of two "
        "values. Times of training cover the forward and the backward pass.",
        facts,
        tuple(machine["command"]),
    )


def failed(analysis: Analysis) -> Table:
    """Every point that did not finish, with its error."""
    lines = [
        Line(
            failure["model"],
            (
                f"{failure['context_length']:,}", str(failure["batch"]), failure["probe"],
                failure["sweep"].replace("_", " "), failure["status"], failure["error"] or "",
            ),
            2,
        )
        for failure in analysis.failures
    ]  # fmt: skip
    headings = ("model", "#context, tokens", "#batch", "probe", "sweep", "status", "error")
    return Table("" if lines else "None: every point finished.", headings, tuple(lines))


def points(analysis: Analysis) -> Table:
    """The values behind all charts, one line each."""
    lines = []
    for key, curves in analysis.curves.items():
        measure = BY_KEY[key]
        for curve in curves:
            for point in curve.points:
                half, count = "", ""
                if point.values:
                    half = " to ".join(units.quantity(end, measure.unit) for end in point.quartiles)
                    count = f"{len(point.values):,} in {len(point.processes):,}"
                value = phrases.point_text(point, measure.unit)
                cells = (f"{point.length:,}", value, half, count, phrases.name(curve.series))
                lines.append(Line(measure.title, cells, 4))
    headings = ("measure", "#context, tokens", "#value", "#middle half of the repeats",
                "#repeats in processes", "model")  # fmt: skip
    return Table("", headings, tuple(lines))
