"""Numbers, names and single findings in plain English; `story.py` builds paragraphs of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from probes.collect import Arm, Material
from probes.compare import Crossing, Curve, Finding, Point, Slope
from probes.growth import Growth
from probes.measures import Measure

FAILURES = {
    "oom": "ran out of memory",
    "timeout": "did not finish within the time limit",
    "error": "failed with an error",
    "predicted_oom": "was not tried: it could not fit into memory",
    "predicted_timeout": "was not tried: it could not finish within the time limit",
}
DOING = {
    "train": "Training",
    "prefill": "Reading a prompt",
    "ttft": "Beginning an answer",
    "decode": "Generating",
    "generate": "Writing a whole text",
    "layer": "Running one layer",
    "operator": "Running the operator alone",
    "max_batch": "Filling the memory with sequences",
    "max_batch_train": "Filling the memory with training sequences",
}

INTERVAL = "95 % interval "

# ---- numbers -------------------------------------------------------------------------------------


def significant(value: float, digits: int = 3) -> str:
    """`value` with so many significant digits, thousands separated, never in exponent form."""
    if value == 0:
        return "0"
    rounded = f"{value:.{digits - 1}e}"
    decimals = digits - 1 - int(rounded.split("e")[1])
    return f"{float(rounded):,.{max(0, decimals)}f}"


def tokens(length: float) -> str:
    """A measured length as it is, an interpolated one to three digits and whole tokens."""
    return f"{length if isinstance(length, int) else float(f'{length:.3g}'):,.0f}"


def times(ratio: float) -> str:
    """`1.7 times as much`; a third digit where two would say `1.0`."""
    return f"{significant(ratio, 2 if ratio >= 1.1 else 3)} times as much"


def seconds(value: float) -> str:
    for scale, unit in ((1e-6, "µs"), (1e-3, "ms")):
        if value < 999.5 * scale:
            return f"{significant(value / scale)} {unit}"
    return f"{significant(value)} s" if value < 600 else f"{significant(value / 60)} min"


def size_bytes(value: float) -> str:
    for power, unit in enumerate(("B", "KiB", "MiB")):
        if value < 999.5 * 1024**power:
            return f"{significant(value / 1024**power)} {unit}"
    return f"{significant(value / 1024**3)} GiB"


def quantity(value: float, unit: str) -> str:
    return seconds(value) if unit == "s" else size_bytes(value)


def round_quantity(value: float, unit: str) -> str:
    """For the ticks of an axis: `5 ms` rather than `5.00 ms`."""
    number, _, name = quantity(value, unit).partition(" ")
    return f"{number.rstrip('0').rstrip('.') if '.' in number else number} {name}"


def listing(words: Sequence[str], last: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"


def name(arm: Arm) -> str:
    """A contestant's name as people write it: RWKV-7, GPT, Transformer."""
    known = {"gpt": "GPT", "transformer": "Transformer"}
    shown = known.get(arm.contestant) or re.sub(r"^rwkv(\d.*)$", r"RWKV-\1", arm.contestant)
    return shown + arm.label.removeprefix(arm.contestant)


def spoken(arm: Arm) -> str:
    """The name as it stands inside a sentence: `the Transformer`, but `GPT` and `RWKV-7`."""
    return f"the {name(arm)}" if arm.contestant == "transformer" else name(arm)


def cut_every(runs: Iterable[dict[str, Any]]) -> list[int]:
    """Tokens between the cuts of trainings by truncated back-propagation, each length once."""
    return sorted({run["segment"] for run in runs if run.get("bptt") == "truncated"})


def interval(crossing: Crossing, finding: Finding) -> str:
    """The 95 % interval in words; an end outside the measured lengths is said to be there."""
    if crossing.low is None and crossing.high is None:
        single = _single(finding)
        return "one value per point, no interval" if single else f"{INTERVAL}wider than the range"
    low = f"below {tokens(finding.lengths[0])}"
    high = f"above {tokens(finding.lengths[-1])}"
    if crossing.low is not None:
        low = tokens(crossing.low)
    if crossing.high is not None:
        high = tokens(crossing.high)
    return f"{INTERVAL}{low} to {high}"


def _single(finding: Finding) -> bool:
    points = finding.recurrent.measured | finding.attention.measured
    return all(len(point.values) == 1 for point in points.values())


def warnings(material: Material) -> list[str]:
    """What stands above everything else: unlike rows that were compared, and lost lines."""
    said = []
    if material.mixed:
        said.append(
            f"Unlike measurements are compared here (allow_mixed): {'; '.join(material.mixed)}."
        )
    if material.damaged:
        said.append(f"Damaged lines: {'; '.join(material.damaged)}.")
    return said


# ---- one finding ---------------------------------------------------------------------------------


def span(finding: Finding) -> str:
    return f"{tokens(finding.lengths[0])} to {tokens(finding.lengths[-1])} tokens"


def verdict(finding: Finding) -> str:
    """Who is cheaper where in one measure, in one sentence."""
    mine, other = spoken(finding.recurrent.arm), spoken(finding.attention.arm)
    noun = finding.measure.noun
    if finding.kind == "missing":
        return f"No comparison of {noun}: {missing_reason(finding)}."
    if finding.kind == "equal":
        return f"{mine} and {other} need the same {noun} at every length measured, {span(finding)}."
    if finding.kind in ("always", "never"):
        more = "less" if finding.kind == "always" else "more"
        where = f"at every length measured, {span(finding)}"
        if finding.kind == "never" and any(finding.ratio(at) == 1 for at in finding.lengths):
            return f"{mine} never needs less {noun} than {other} {where}."
        return f"{mine} needs {more} {noun} than {other} {where}."
    if finding.kind == "several":
        places = listing([tokens(one.length) for one in finding.crossings])
        return (
            f"The curves of {noun} of {mine} and {other} cross {len(finding.crossings)} times "
            f"from {span(finding)} (near {places}): there is no single crossover."
        )
    crossing = finding.crossings[0]
    place = f"about {tokens(crossing.length)} tokens of context ({interval(crossing, finding)})"
    if finding.kind == "crosses":
        return f"From {place}, {mine} needs less {noun} than {other}."
    return f"Only up to {place}, {mine} needs less {noun} than {other}; beyond, it needs more."


def missing_reason(finding: Finding) -> str:
    empty = [spoken(one.arm) for one in (finding.recurrent, finding.attention) if not one.points]
    if empty:
        return "not probed" if len(empty) == 2 else f"{empty[0]} was not probed"
    shared = len(finding.lengths)
    return f"it needs two lengths measured for both, and there {'is one' if shared else 'are none'}"


def reason(finding: Finding) -> str:
    """What to know about a finding; the `reason` of crossover.json."""
    if finding.kind == "missing":
        return missing_reason(finding)
    pair = f"{finding.recurrent.arm.label} against {finding.attention.arm.label}"
    return f"{pair}, {span(finding)}: {finding.note}"


def failures(one: Curve, measure: Measure) -> str:
    """`Training at 8,192 tokens, GPT ran out of memory.`, or nothing."""
    batches = " in full batches" if measure.sweep == "fixed_tokens" else ""
    sentences = []
    for status, phrase in FAILURES.items():
        if lengths := [tokens(point.length) for point in one.failed if point.status == status]:
            where = f"{DOING[measure.probe]}{batches} at {listing(lengths)} tokens"
            sentences.append(f"{where}, {spoken(one.arm)} {phrase}.")
    return " ".join(sentences)


def loss_example(finding: Finding, length: int) -> str:
    """`at 512 tokens 20.1 ms against 12.0 ms for GPT, 1.7 times as much`."""
    mine, other = _costs(finding, length)
    factor, rival = times(finding.ratio(length)), spoken(finding.attention.arm)
    return f"at {tokens(length)} tokens {mine} against {other} for {rival}, {factor}"


def win_example(finding: Finding, length: int) -> str:
    """`12.0 ms at 512 tokens, where GPT takes 20.1 ms, 1.7 times as much`."""
    mine, other = _costs(finding, length)
    factor = times(1 / finding.ratio(length))
    rival = spoken(finding.attention.arm)
    return f"{mine} at {tokens(length)} tokens, where {rival} takes {other}, {factor}"


def _costs(finding: Finding, length: int) -> tuple[str, str]:
    unit = finding.measure.unit
    sides = (finding.recurrent, finding.attention)
    mine, other = (quantity(side.measured[length].median, unit) for side in sides)
    return mine, other


# ---- cells of tables -----------------------------------------------------------------------------


def unique(values: Iterable[Any]) -> str:
    """Distinct values as text, for the machine table."""
    return ", ".join(dict.fromkeys(str(value) for value in values if value not in (None, "")))


def bounds(slope: Slope) -> str:
    """The interval of a slope."""
    if slope.low is None or slope.high is None:
        return "one value per point"
    return f"{slope.low:.2f} to {slope.high:.2f}"


def shape(growth: Growth | None) -> str:
    """The shape AICc prefers and its weight: `a + bT (98 %)`."""
    if growth is None:
        return "too few points to tell"
    if not growth.decided:
        return "undecided"
    return f"{growth.best.replace('^2', '²')} ({100 * growth.weights[growth.best]:.0f} %)"


def point_text(point: Point, unit: str) -> str:
    """One point in a table: its median, or why there is none."""
    return quantity(point.median, unit) if point.status == "ok" else point.status.replace("_", " ")
