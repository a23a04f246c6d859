"""Numbers, names and single comparisons in plain English; `story.py` builds paragraphs of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from core import units
from core.interval import Interval
from probes.analysis.crossovers import DISTURBED, Comparison, Curve, Point, Slope
from probes.analysis.dataset import Dataset, Series, left_out
from probes.analysis.metrics import Measure
from probes.analysis.ratios import ABOVE, BELOW, EQUAL, UNDECIDED
from probes.analysis.shape_fit import Growth

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


def predicted(accuracies: Iterable[float | None]) -> str:
    """What trainings predict, by their `val_accuracy`, which those of a task alone have."""
    return "new text" if all(each is None for each in accuracies) else "new sequences"


def name(series: Series) -> str:
    """A model's name as people write it: RWKV-7, GPT, Transformer."""
    return spoken(series).removeprefix("the ")


def spoken(series: Series) -> str:
    """The name as it stands inside a sentence: `the Transformer`, but `GPT` and `RWKV-7`."""
    return series.title + series.label.removeprefix(series.model)


def pair(comparison: Comparison) -> str:
    """`RWKV-4 / GPT`: the recurrent and the attention model of a comparison."""
    return f"{name(comparison.recurrent.series)} / {name(comparison.attention.series)}"


def interval(crossing: Interval) -> str:
    """The 95 % interval in words."""
    if crossing.ends is None:
        return "one value per point, no interval"
    return INTERVAL + " to ".join(map(units.tokens, crossing.ends))


def warnings(dataset: Dataset) -> list[str]:
    """What stands above everything else: unlike rows that were compared, and lost lines."""
    said = []
    if dataset.mixed:
        said.append(
            f"Unlike measurements are compared here, as was asked: {'; '.join(dataset.mixed)}."
        )
    if dataset.damaged:
        said.append(f"{left_out(dataset.damaged)}.")
    return said


def quiet(counts: dict[str, int] | None) -> str:
    """The line about the machine; nothing where it is not known."""
    if counts is None:
        return ""
    every, again, left = (counts[key] for key in ("finished", "measured_again", "disturbed"))
    kind = "finished measurement" if counts["failed"] else "measurement"
    of_all = f"of {units.counted(every, kind)}"
    often = f", {counts['repetitions']:,} times in all" if counts["repetitions"] > again else ""
    repeated = (
        f"{again:,} {'was' if again == 1 else 'were'} made again{often}, because other processes "
        "disturbed"
        f" {'it or what it is' if again == 1 else 'them or what they are'} compared with"
    )
    remaining = f"{left:,} {'is' if left == 1 else 'are'}{' still' if again else ''} disturbed"
    if not again:
        what = remaining if left else "none was disturbed"
        return f"{units.capital(of_all)}, {what} by other processes."
    return f"{units.capital(of_all)}, {repeated}; {remaining if left else 'none is disturbed now'}."


# ---- one comparison ------------------------------------------------------------------------------


def span(comparison: Comparison) -> str:
    """Shortest and longest length that is compared."""
    first, *rest = (units.tokens(length) for length in comparison.lengths)
    return f"{first} to {rest[-1]} tokens" if rest else f"{first} tokens"


def verdict(comparison: Comparison) -> str:
    """Who is cheaper where in one measure, in one sentence that says only what is decided."""
    return units.capital(_verdict(comparison))


def _verdict(comparison: Comparison) -> str:
    mine, other = spoken(comparison.recurrent.series), spoken(comparison.attention.series)
    noun = comparison.measure.noun
    kind = comparison.kind
    if kind == "missing":
        return f"No comparison of {noun} of {mine} and {other}: {missing_reason(comparison)}."
    if kind == "equal":
        return (
            f"{mine} and {other} need the same {noun}{resolution(comparison)} at every length "
            f"{compared(comparison)}, {span(comparison)}."
        )
    if kind == "several":
        places = units.listing([units.tokens(crossing.number) for crossing in comparison.crossings])
        return (
            f"The curves of {noun} of {mine} and {other} cross {len(comparison.crossings)} times "
            f"from {span(comparison)} (near {places}){exceptions(comparison)}: there is no single "
            "crossover."
        )
    if kind in ("crosses", "reverse"):
        crossing = comparison.crossings[0]
        place = f"about {units.tokens(crossing.number)} tokens of context ({interval(crossing)})"
        if kind == "crosses":
            return f"From {place}, {mine} needs less {noun} than {other}{exceptions(comparison)}."
        return (
            f"Only up to {place}, {mine} needs less {noun} than {other}; beyond, it needs more"
            f"{exceptions(comparison)}."
        )
    decided = comparison.on(BELOW, ABOVE)
    if not decided:
        if comparison.on(EQUAL):
            return (
                f"{mine} and {other} need the same {noun}{resolution(comparison)} "
                f"{where(comparison, EQUAL)}{open_ends(comparison)}."
            )
        return (
            f"Whether {mine} needs less {noun} than {other} is not decided at any length "
            f"{compared(comparison)}, {span(comparison)}."
        )
    side = comparison.sides[decided[0]]
    more = "less" if side == BELOW else "more"
    same = ""
    if comparison.on(EQUAL):
        same = f"; {where(comparison, EQUAL)} both need the same{resolution(comparison)}"
    place = where(comparison, side)
    return f"{mine} needs {more} {noun} than {other} {place}{same}{open_ends(comparison)}."


def compared(comparison: Comparison) -> str:
    """Which lengths a verdict is about, after `at every length`: `measured`, where that is all."""
    sides = (comparison.recurrent, comparison.attention)
    if all(point.length in comparison.sides for curve in sides for point in curve.points):
        return "measured"
    finished = "that both finished" if any(curve.failed for curve in sides) else "measured for both"
    return f"{finished} undisturbed" if comparison.disturbed else finished


def where(comparison: Comparison, *sides: str) -> str:
    """`at 256 to 1,024 and 4,096 tokens`: the lengths on these sides, neighbours joined."""
    chosen = comparison.on(*sides)
    if chosen == list(comparison.sides):
        return f"at every length {compared(comparison)}, {span(comparison)}"
    return at(comparison, chosen)


def at(comparison: Comparison, chosen: Sequence[int]) -> str:
    """`at 256 to 1,024 and 4,096 tokens`: some lengths of a comparison, neighbours joined."""
    lengths = list(comparison.sides)
    runs: list[list[int]] = []
    for length in chosen:
        if runs and lengths.index(length) == lengths.index(runs[-1][-1]) + 1:
            runs[-1].append(length)
        else:
            runs.append([length])
    places = [
        units.tokens(run[0])
        if len(run) == 1
        else f"{units.tokens(run[0])} to {units.tokens(run[-1])}"
        for run in runs
    ]
    return f"at {units.listing(places)} tokens"


def undecided_runs(comparison: Comparison) -> list[tuple[int, int]]:
    """First and last length of each run of neighbours whose side is not decided; those in the
    interval of a crossing are what it says."""
    unclear = outside(comparison, UNDECIDED)
    runs: list[list[int]] = [[]]
    for length in comparison.sides:
        if length in unclear:
            runs[-1].append(length)
        elif runs[-1]:
            runs.append([])
    return [(run[0], run[-1]) for run in runs if run]


def not_decided(runs: Sequence[tuple[int, int]]) -> str:
    """`not decided between 256 and 512, at 4,096`."""
    places = [
        f"at {units.tokens(low)}"
        if low == high
        else f"between {units.tokens(low)} and {units.tokens(high)}"
        for low, high in runs
    ]
    return f"not decided {', '.join(places)}"


def exceptions(comparison: Comparison) -> str:
    """Where what is said of a crossing does not hold: equal lengths, and those not decided."""
    equal = outside(comparison, EQUAL)
    if comparison.kind == "crosses":  # nothing is said of what lies before
        equal = [length for length in equal if length > comparison.crossings[0].number]
    same = f"; {at(comparison, equal)} both need the same{resolution(comparison)}" if equal else ""
    return f"{same}{open_ends(comparison)}{beyond(comparison)}"


def beyond(comparison: Comparison) -> str:
    """`; not compared above 4,096 tokens`: where something longer is not known of both, although
    it was tried; the same below what is said to be cheaper up to some length."""
    if comparison.kind not in ("crosses", "reverse"):
        return ""
    shortest, longest = tried(comparison)
    ends = []
    if comparison.kind == "reverse" and shortest < comparison.lengths[0]:
        ends.append(f"below {units.tokens(comparison.lengths[0])}")
    if longest > comparison.lengths[-1]:
        ends.append(f"above {units.tokens(comparison.lengths[-1])}")
    return f"; not compared {units.listing(ends)} tokens" if ends else ""


def tried(comparison: Comparison) -> tuple[int, int]:
    """Shortest and longest length that either has a point at, whatever became of it."""
    lengths = [
        point.length
        for side in (comparison.recurrent, comparison.attention)
        for point in side.points
    ]
    return min(lengths), max(lengths)


def outside(comparison: Comparison, side: str) -> list[int]:
    """Lengths on a side that lie in no crossing's interval, which says how sure its place is."""
    spans = [crossing.ends for crossing in comparison.crossings if crossing.ends]
    return [
        length
        for length in comparison.on(side)
        if not any(low <= length <= high for low, high in spans)
    ]


def open_ends(comparison: Comparison) -> str:
    """`; not decided below 1,024 tokens`: lengths where no side is decided, but for those in the
    interval of a crossing."""
    decided = comparison.on(BELOW, ABOVE, EQUAL)
    unclear = outside(comparison, UNDECIDED)
    if not unclear or not decided:
        return ""
    ends = []
    if unclear[0] < decided[0]:
        ends.append(f"below {units.tokens(decided[0])} tokens")
    if inside := [length for length in unclear if decided[0] < length < decided[-1]]:
        ends.append(f"at {units.listing([units.tokens(length) for length in inside])} tokens")
    if unclear[-1] > decided[-1]:
        ends.append(f"above {units.tokens(decided[-1])} tokens")
    if len(ends) == 2 and decided[0] == decided[-1]:
        ends = ["below", f"above {units.tokens(decided[-1])} tokens"]
    return f"; not decided {units.listing(ends)}"


def resolution(comparison: Comparison) -> str:
    """` to within 1 %`: what a difference must exceed to be one; nothing for exact counts."""
    limit = comparison.resolution
    if limit.exact or all(comparison.ratio(length) == 1 for length in comparison.sides):
        return ""
    least = f" or {units.size_bytes(limit.absolute)}" if limit.absolute else ""
    return f" to within {units.significant(100 * limit.relative, 1)} %{least}"


def missing_reason(comparison: Comparison) -> str:
    empty = [
        spoken(curve.series)
        for curve in (comparison.recurrent, comparison.attention)
        if not curve.points
    ]
    if empty:
        return "not probed" if len(empty) == 2 else f"{empty[0]} was not probed"
    shared = len(comparison.lengths)
    lost, count = "", len(comparison.disturbed)
    if count:
        were = "point was" if count == 1 else "points were"
        lost = f" ({count} {were} disturbed by other work on the machine)"
    there = "is one" if shared else "are none"
    return f"it needs two lengths measured for both, and there {there}{lost}"


def reason(comparison: Comparison) -> str:
    """What to know about a comparison; the `reason` of crossover.json."""
    if comparison.kind == "missing":
        return missing_reason(comparison)
    labels = f"{comparison.recurrent.series.label} against {comparison.attention.series.label}"
    return f"{labels}, {span(comparison)}: {comparison.note}"


def failures(curve: Curve, measure: Measure) -> str:
    """`Training at 8,192 tokens, GPT ran out of memory.`, or nothing."""
    batches = " in full batches" if measure.sweep == "fixed_tokens" else ""
    sentences = []
    for status, phrase in FAILURES.items():
        if lengths := [
            units.tokens(point.length) for point in curve.failed if point.status == status
        ]:
            where = f"{DOING[measure.probe]}{batches} at {units.listing(lengths)} tokens"
            sentences.append(f"{where}, {spoken(curve.series)} {phrase}.")
    return " ".join(sentences)


def loss_example(comparison: Comparison, length: int) -> str:
    """`at 512 tokens 20.1 ms against 12.0 ms for GPT, 1.7 times as much`."""
    mine, other = values(comparison, length)
    unit, rival = comparison.measure.unit, spoken(comparison.attention.series)
    return (
        f"at {units.tokens(length)} tokens {units.quantity(mine, unit)} against "
        f"{units.quantity(other, unit)} for {rival}, "
        f"{units.factor(comparison.ratio(length), (mine, other))}"
    )


def win_example(comparison: Comparison, length: int) -> str:
    """`at 512 tokens 12.0 ms, where GPT needs 20.1 ms, 1.7 times as much`."""
    mine, other = values(comparison, length)
    unit, rival = comparison.measure.unit, spoken(comparison.attention.series)
    return (
        f"at {units.tokens(length)} tokens {units.quantity(mine, unit)}, where {rival} needs "
        f"{units.quantity(other, unit)}, "
        f"{units.factor(1 / comparison.ratio(length), (other, mine))}"
    )


def values(comparison: Comparison, length: int) -> tuple[float, float]:
    """Values of the recurrent and the attention model, as their curves have them."""
    sides = (comparison.recurrent, comparison.attention)
    mine, other = (side.measured[length].value for side in sides)
    return mine, other


# ---- cells of tables -----------------------------------------------------------------------------


def bounds(slope: Slope) -> str:
    """The interval of a slope."""
    if slope.exponent.ends is None:
        return "one value per point"
    return " to ".join(f"{end:.2f}" for end in slope.exponent.ends)


def linearity(slope: Slope) -> str:
    """Whether the cost is linear, and how much bend is possible."""
    if slope.linear:
        return "yes"
    if slope.bend is None or slope.bend.share.ends is None:
        return "not claimed"
    low, high = slope.bend.share.ends
    return "no" if low > 0 or high < 0 else "not claimed"


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
        return f"{units.quantity(point.value, unit)}, disturbed"
    return (
        units.quantity(point.value, unit)
        if point.status == "ok"
        else point.status.replace("_", " ")
    )
