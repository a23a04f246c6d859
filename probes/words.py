"""Numbers, names and single findings in plain English; `story.py` builds paragraphs of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isnan
from typing import Any

from probes.collect import Arm, Material, left_out
from probes.compare import DISTURBED, Crossing, Curve, Finding, Point, Slope
from probes.growth import Growth
from probes.measures import Measure
from probes.ratios import ABOVE, BELOW, EQUAL, UNDECIDED
from probes.rows import OK, Row

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

SIDES = {BELOW: "cheaper", ABOVE: "dearer", EQUAL: "equal", UNDECIDED: "not decided"}
INTERVAL = "95 % interval "
SIDE_BY_SIDE = "measured side by side"
MOST_DIGITS = 8

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
    """`1.7 times as much`; as many more digits as it takes not to say `1.0`."""
    digits = 2 if ratio >= 1.1 else 3
    while digits < MOST_DIGITS and ratio != 1 and float(f"{ratio:.{digits - 1}e}") == 1:
        digits += 1
    return f"{significant(ratio, digits)} times as much"


def factor(ratio: float, values: tuple[float, float]) -> str:
    """How much more, by the processes that were measured side by side; two values that stand beside
    it and would give another number are told apart from that."""
    said = times(ratio)
    return said if times(values[0] / values[1]) == said else f"{said} {SIDE_BY_SIDE}"


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
    return spoken(arm).removeprefix("the ")


def capital(text: str) -> str:
    """As it begins a sentence."""
    return text[0].upper() + text[1:]


def spoken(arm: Arm) -> str:
    """The name as it stands inside a sentence: `the Transformer`, but `GPT` and `RWKV-7`."""
    return arm.title + arm.label.removeprefix(arm.contestant)


def cut_every(runs: Iterable[dict[str, Any]]) -> list[int]:
    """Tokens between the cuts of trainings by truncated back-propagation, each length once."""
    return sorted({run["segment"] for run in runs if run.get("bptt") == "truncated"})


def interval(crossing: Crossing) -> str:
    """The 95 % interval in words."""
    if crossing.low is None or crossing.high is None:
        return "one value per point, no interval"
    return f"{INTERVAL}{tokens(crossing.low)} to {tokens(crossing.high)}"


def warnings(material: Material) -> list[str]:
    """What stands above everything else: unlike rows that were compared, and lost lines."""
    said = []
    if material.mixed:
        said.append(
            f"Unlike measurements are compared here, as was asked: {'; '.join(material.mixed)}."
        )
    if material.damaged:
        said.append(f"{left_out(material.damaged)}.")
    return said


def disturbance(rows: Iterable[Row]) -> dict[str, int] | None:
    """How quiet the machine was. A measurement is a point in one process: those that `finished`,
    those `measured_again` because one of their company was disturbed, how often that was
    (`repetitions`), those still `disturbed`, and those that `failed`. None where a row does not
    know."""
    every = list(rows)
    finished = [row for row in every if row.status == OK]
    if not finished or not all(row.disturbed for row in finished):
        return None
    return {
        "finished": len(finished),
        "measured_again": sum(row.visit > 0 for row in finished),
        "repetitions": sum(row.visit for row in finished),
        "disturbed": sum(row.is_disturbed for row in finished),
        "failed": len(every) - len(finished),
    }


def quiet(counts: dict[str, int] | None) -> str:
    """The line about the machine; nothing where it is not known."""
    if counts is None:
        return ""
    every, again, left = (counts[key] for key in ("finished", "measured_again", "disturbed"))
    kind = "finished measurement" if counts["failed"] else "measurement"
    of_all = f"of {every:,} {kind}{'' if every == 1 else 's'}"
    often = f", {counts['repetitions']:,} times in all" if counts["repetitions"] > again else ""
    repeated = (
        f"{again:,} {'was' if again == 1 else 'were'} made again{often}, because other processes "
        "disturbed"
        f" {'it or what it is' if again == 1 else 'them or what they are'} compared with"
    )
    remaining = f"{left:,} {'is' if left == 1 else 'are'}{' still' if again else ''} disturbed"
    if not again:
        return (
            f"{capital(of_all)}, {remaining if left else 'none was disturbed'} by other processes."
        )
    return f"{capital(of_all)}, {repeated}; {remaining if left else 'none is disturbed now'}."


# ---- one finding ---------------------------------------------------------------------------------


def span(finding: Finding) -> str:
    """Shortest and longest length that is compared."""
    first, *rest = (tokens(length) for length in finding.lengths)
    return f"{first} to {rest[-1]} tokens" if rest else f"{first} tokens"


def verdict(finding: Finding) -> str:
    """Who is cheaper where in one measure, in one sentence that says only what is decided."""
    return capital(_verdict(finding))


def _verdict(finding: Finding) -> str:
    mine, other = spoken(finding.recurrent.arm), spoken(finding.attention.arm)
    noun = finding.measure.noun
    kind = finding.kind
    if kind == "missing":
        return f"No comparison of {noun}: {missing_reason(finding)}."
    if kind == "equal":
        return (
            f"{mine} and {other} need the same {noun}{resolution(finding)} at every length "
            f"{compared(finding)}, {span(finding)}."
        )
    if kind == "several":
        places = listing([tokens(one.length) for one in finding.crossings])
        return (
            f"The curves of {noun} of {mine} and {other} cross {len(finding.crossings)} times "
            f"from {span(finding)} (near {places}){exceptions(finding)}: there is no single "
            "crossover."
        )
    if kind in ("crosses", "reverse"):
        crossing = finding.crossings[0]
        place = f"about {tokens(crossing.length)} tokens of context ({interval(crossing)})"
        if kind == "crosses":
            return f"From {place}, {mine} needs less {noun} than {other}{exceptions(finding)}."
        return (
            f"Only up to {place}, {mine} needs less {noun} than {other}; beyond, it needs more"
            f"{exceptions(finding)}."
        )
    decided = finding.on(BELOW, ABOVE)
    if not decided:
        if finding.on(EQUAL):
            return (
                f"{mine} and {other} need the same {noun}{resolution(finding)} "
                f"{where(finding, EQUAL)}{open_ends(finding)}."
            )
        return (
            f"Whether {mine} needs less {noun} than {other} is not decided at any length "
            f"{compared(finding)}, {span(finding)}."
        )
    side = finding.sides[decided[0]]
    more = "less" if side == BELOW else "more"
    same = ""
    if finding.on(EQUAL):
        same = f"; {where(finding, EQUAL)} both need the same{resolution(finding)}"
    return (
        f"{mine} needs {more} {noun} than {other} {where(finding, side)}{same}{open_ends(finding)}."
    )


def compared(finding: Finding) -> str:
    """Which lengths a verdict is about, after `at every length`: `measured`, where that is all."""
    sides = (finding.recurrent, finding.attention)
    if all(point.length in finding.sides for one in sides for point in one.points):
        return "measured"
    finished = "that both finished" if any(one.failed for one in sides) else "measured for both"
    return f"{finished} undisturbed" if finding.disturbed else finished


def where(finding: Finding, *sides: str) -> str:
    """`at 256 to 1,024 and 4,096 tokens`: the lengths on these sides, neighbours joined."""
    chosen = finding.on(*sides)
    if chosen == list(finding.sides):
        return f"at every length {compared(finding)}, {span(finding)}"
    return at(finding, chosen)


def at(finding: Finding, chosen: Sequence[int]) -> str:
    """`at 256 to 1,024 and 4,096 tokens`: some lengths of a finding, neighbours joined."""
    lengths = list(finding.sides)
    runs: list[list[int]] = []
    for length in chosen:
        if runs and lengths.index(length) == lengths.index(runs[-1][-1]) + 1:
            runs[-1].append(length)
        else:
            runs.append([length])
    told = [
        tokens(run[0]) if len(run) == 1 else f"{tokens(run[0])} to {tokens(run[-1])}"
        for run in runs
    ]
    return f"at {listing(told)} tokens"


def undecided_runs(finding: Finding) -> list[tuple[int, int]]:
    """First and last length of each run of neighbours whose side is not decided; those in the
    interval of a crossing are what it says."""
    unclear = outside(finding, UNDECIDED)
    runs: list[list[int]] = [[]]
    for length in finding.sides:
        if length in unclear:
            runs[-1].append(length)
        elif runs[-1]:
            runs.append([])
    return [(run[0], run[-1]) for run in runs if run]


def not_decided(runs: Sequence[tuple[int, int]]) -> str:
    """`not decided between 256 and 512, at 4,096`."""
    told = [
        f"at {tokens(low)}" if low == high else f"between {tokens(low)} and {tokens(high)}"
        for low, high in runs
    ]
    return f"not decided {', '.join(told)}"


def exceptions(finding: Finding) -> str:
    """Where what is said of a crossing does not hold: equal lengths, and those not decided."""
    equal = outside(finding, EQUAL)
    if finding.kind == "crosses":  # nothing is said of what lies before
        equal = [length for length in equal if length > finding.crossings[0].length]
    same = f"; {at(finding, equal)} both need the same{resolution(finding)}" if equal else ""
    return f"{same}{open_ends(finding)}{beyond(finding)}"


def beyond(finding: Finding) -> str:
    """`; not compared above 4,096 tokens`: where something longer is not known of both, although
    it was tried; the same below what is said to be cheaper up to some length."""
    if finding.kind not in ("crosses", "reverse"):
        return ""
    shortest, longest = tried(finding)
    ends = []
    if finding.kind == "reverse" and shortest < finding.lengths[0]:
        ends.append(f"below {tokens(finding.lengths[0])}")
    if longest > finding.lengths[-1]:
        ends.append(f"above {tokens(finding.lengths[-1])}")
    return f"; not compared {listing(ends)} tokens" if ends else ""


def tried(finding: Finding) -> tuple[int, int]:
    """Shortest and longest length that either has a point at, whatever became of it."""
    lengths = [one.length for side in (finding.recurrent, finding.attention) for one in side.points]
    return min(lengths), max(lengths)


def outside(finding: Finding, side: str) -> list[int]:
    """Lengths on a side that lie in no crossing's interval, which says how sure its place is."""
    spans = [(one.low, one.high) for one in finding.crossings]
    return [
        length
        for length in finding.on(side)
        if not any(low and high and low <= length <= high for low, high in spans)
    ]


def open_ends(finding: Finding) -> str:
    """`; not decided below 1,024 tokens`: lengths where no side is decided, but for those in the
    interval of a crossing."""
    decided = finding.on(BELOW, ABOVE, EQUAL)
    unclear = outside(finding, UNDECIDED)
    if not unclear or not decided:
        return ""
    told = []
    if unclear[0] < decided[0]:
        told.append(f"below {tokens(decided[0])} tokens")
    if inside := [length for length in unclear if decided[0] < length < decided[-1]]:
        told.append(f"at {listing([tokens(length) for length in inside])} tokens")
    if unclear[-1] > decided[-1]:
        told.append(f"above {tokens(decided[-1])} tokens")
    if len(told) == 2 and decided[0] == decided[-1]:
        told = ["below", f"above {tokens(decided[-1])} tokens"]
    return f"; not decided {listing(told)}"


def resolution(finding: Finding) -> str:
    """` to within 1 %`: what a difference must exceed to be one; nothing for exact counts."""
    known = finding.resolution
    if known.exact or all(finding.ratio(length) == 1 for length in finding.sides):
        return ""
    least = f" or {size_bytes(known.absolute)}" if known.absolute else ""
    return f" to within {significant(100 * known.relative, 1)} %{least}"


def missing_reason(finding: Finding) -> str:
    empty = [spoken(one.arm) for one in (finding.recurrent, finding.attention) if not one.points]
    if empty:
        return "not probed" if len(empty) == 2 else f"{empty[0]} was not probed"
    shared = len(finding.lengths)
    lost, count = "", len(finding.disturbed)
    if count:
        were = "point was" if count == 1 else "points were"
        lost = f" ({count} {were} disturbed by other work on the machine)"
    there = "is one" if shared else "are none"
    return f"it needs two lengths measured for both, and there {there}{lost}"


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
    mine, other = values(finding, length)
    unit, rival = finding.measure.unit, spoken(finding.attention.arm)
    return (
        f"at {tokens(length)} tokens {quantity(mine, unit)} against {quantity(other, unit)} for "
        f"{rival}, {factor(finding.ratio(length), (mine, other))}"
    )


def win_example(finding: Finding, length: int) -> str:
    """`at 512 tokens 12.0 ms, where GPT needs 20.1 ms, 1.7 times as much`."""
    mine, other = values(finding, length)
    unit, rival = finding.measure.unit, spoken(finding.attention.arm)
    return (
        f"at {tokens(length)} tokens {quantity(mine, unit)}, where {rival} needs "
        f"{quantity(other, unit)}, {factor(1 / finding.ratio(length), (other, mine))}"
    )


def values(finding: Finding, length: int) -> tuple[float, float]:
    """Of the recurrent and of the attention arm, as their curves have them."""
    sides = (finding.recurrent, finding.attention)
    mine, other = (side.measured[length].value for side in sides)
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


def linearity(slope: Slope) -> str:
    """Whether the cost is linear, and how much bend is possible."""
    if slope.linear:
        return "yes"
    if slope.bend is None or isnan(slope.bend.share.low):
        return "not claimed"
    share = slope.bend.share
    return "no" if share.low > 0 or share.high < 0 else "not claimed"


def shape(growth: Growth | None) -> str:
    """The shape AICc prefers and its weight: `a + bT (98 %)`."""
    if growth is None:
        return "too few points to tell"
    if not growth.decided:
        return "undecided"
    return f"{growth.best.replace('^2', '²')} ({100 * growth.weights[growth.best]:.0f} %)"


def point_text(point: Point, unit: str) -> str:
    """One point in a table: its value, marked where it does not count, or why there is none."""
    if point.status == DISTURBED:
        return f"{quantity(point.value, unit)}, disturbed"
    return quantity(point.value, unit) if point.status == "ok" else point.status.replace("_", " ")
