"""The tables of what was compared and found, as text (`probes.markup` writes them)."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from probes import compare, words
from probes.compare import BEND, LOCAL, Finding
from probes.markup import Line, Table, of_arm
from probes.measures import MEASURES, Measure

if TYPE_CHECKING:
    from probes.report import Report


def contestants(report: Report) -> Table:
    """Size, quality and kernels of every arm, with what compressors reach for scale."""
    lines = []
    for arm in report.material.arms:
        facts = report.summary["contestants"][arm.label]
        numbers = [
            f"{facts['parameters']:,}" if facts["parameters"] else "unknown",
            *_optional(facts, "val_loss", ".3f"),
            *_optional(facts, "bits_per_byte", ".3f"),
            *_optional(facts, "tokens_per_second", ",.0f"),
        ]
        kernels = "; ".join(f"{name}: {', '.join(k)}" for name, k in arm.backends().items())
        lines.append(of_arm(arm, [*numbers, kernels], len(numbers)))
    base = report.summary["baselines"]
    known = {
        "gzip -9": ["", "", *_optional(base, "gzip_bits_per_byte", ".3f"), ""],
        "xz -9": ["", "", *_optional(base, "xz_bits_per_byte", ".3f"), ""],
        "token frequencies alone": ["", *_optional(base, "unigram_entropy", ".3f"), "", ""],
    }
    scale = [
        Line(name, (*cells, ""), 4, css="baseline")
        for name, cells in known.items()
        if any(cell not in ("", "–") for cell in cells)
    ]
    headings = ("contestant", "#parameters", "#validation loss, nats/token", "#bits per byte",
                "#training tokens/s", "kernels")  # fmt: skip
    note = "No finished training was given, so how well they predict text is not known."
    if report.material.trainings:
        note = "Lower loss and fewer bits per byte are better."
    if scale:
        note += " What needs no model is given for scale."
    return Table(note, headings, (*lines, *scale))


def _optional(facts: dict[str, Any], name: str, style: str) -> list[str]:
    return [format(facts[name], style) if facts.get(name) is not None else "–"]


def crossovers(report: Report) -> Table:
    """One row per finding: the crossover length and its interval, or why there is none."""
    several = len(report.material.pairs) > 1
    if not report.findings:
        return Table("A crossover needs a recurrent and an attention model.")
    caption = (
        "From this context length on, the recurrent model stays cheaper wherever a side is "
        "decided, up to the longest one compared. Crossings counts the changes of order that are "
        "decided; with more than one there is no single crossover."
    )
    headings = ("measure", "#crossover, tokens", "#crossings", "95 % interval",
                "compared over, tokens", "sweep",
                *(["pair"] if several else []), "note")  # fmt: skip
    lines = [_crossover(one, several) for one in report.findings]
    return Table(caption, headings, tuple(lines))


def _crossover(one: Finding, several: bool) -> Line:
    mine, other = words.name(one.recurrent.arm), words.name(one.attention.arm)
    crossing = one.crossover
    length = "none in range" if one.none_in_range else "not decided"
    if crossing:
        length = words.tokens(crossing.length)
    elif one.kind == "missing":
        length = ""
    shown = words.interval(crossing).removeprefix(words.INTERVAL) if crossing else ""
    span = ""
    if one.lengths:
        ends = [words.tokens(length) for length in (one.lengths[0], one.lengths[-1])]
        span = ends[0] if len(one.lengths) == 1 else " to ".join(ends)
    cells = [
        length,
        str(len(one.crossings)) if one.kind != "missing" else "",
        shown,
        span,
        one.measure.sweep.replace("_", " "),
        *([f"{mine} / {other}"] if several else []),
        words.reason(one) if one.kind == "missing" else f"{mine}: {one.note}",
    ]
    return Line(one.measure.title, tuple(cells), 2)


def slopes(report: Report) -> Table:
    """The exponents of growth, with their intervals."""
    titles = {measure.key: measure.title for measure in MEASURES}
    arms = {arm.label: arm for arm in report.material.arms}
    lines = []
    for (label, key), one in report.slopes.items():
        cells = [
            f"{one.value:.2f}",
            titles[key],
            words.bounds(one),
            f"{one.window[0]:,} to {one.window[1]:,}",
            words.linearity(one),
            words.shape(one.growth),
        ]
        lines.append(of_arm(arms[label], cells, 1))
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
    headings = ("contestant", "#p", "measure", "95 % interval", "window, tokens", "linear",
                "shape (weight)")  # fmt: skip
    return Table(caption, headings, tuple(lines))


@dataclass(frozen=True)
class Method:
    """How it was measured: a paragraph, facts by name, and the commands."""

    text: str
    facts: dict[str, str]
    commands: tuple[str, ...]


def method(report: Report) -> Method:
    """Machine, versions, kernels per probe, and the commands."""
    machine = report.summary["machine"]
    memory = words.size_bytes(machine["memory_bytes"]) if machine["memory_bytes"] else "unknown"
    facts = {
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
        facts[f"Kernels of {words.name(arm)}"] = ", ".join(used)
    return Method(_how(report), facts, tuple(machine["command"]))


def _how(report: Report) -> str:
    machine = report.summary["machine"]
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
    if len(report.material.arms) > 1:
        turns = f" Contestants take turns in a random order (seed {machine['seed']})."
    return (
        f"Each point is measured in {how}, with a limit on time and memory, and repeated after an "
        f"untimed warm-up.{turns} A value is {value}; a point whose processes were all disturbed "
        f"takes no part in anything. {intervals} A ratio is taken from processes measured "
        "side by side, without those that a burst has hit, so it can differ from that of two "
        "values. Times of training cover the forward and the backward pass."
    )


def failed(report: Report) -> Table:
    """Every point that did not finish, with its error."""
    lines = [
        Line(
            one["contestant"],
            (
                f"{one['context_length']:,}", str(one["batch"]), one["probe"],
                one["sweep"].replace("_", " "), one["status"], one["error"] or "",
            ),
            2,
        )
        for one in report.summary["failures"]
    ]  # fmt: skip
    headings = ("contestant", "#context, tokens", "#batch", "probe", "sweep", "status", "error")
    return Table("" if lines else "None: every point finished.", headings, tuple(lines))


def points(report: Report, measure: Measure) -> Table:
    """The values behind one chart."""
    drawn = compare.curves(report.material, measure)
    by_length: dict[int, dict[str, str]] = defaultdict(dict)
    for one in drawn:
        for point in one.points:
            text = words.point_text(point, measure.unit)
            by_length[point.length][one.arm.label] = text
    lines = [
        Line(f"{length:,}", tuple(texts.get(one.arm.label, "") for one in drawn), len(drawn))
        for length, texts in sorted(by_length.items())
    ]
    headings = ("context, tokens", *(f"#{words.name(one.arm)}" for one in drawn))
    return Table("", headings, tuple(lines))
