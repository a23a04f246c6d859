"""The answer of the report in one sentence, with its interval.

As in the paragraphs below it, nothing is claimed about lengths that were not measured.
"""

from __future__ import annotations

from collections.abc import Sequence

from core import units
from probes.analysis.crossovers import Comparison
from probes.analysis.dataset import Dataset
from probes.analysis.metrics import Measure
from probes.analysis.ratios import ABOVE, BELOW, EQUAL
from probes.report import phrases


def headline(dataset: Dataset, comparisons: Sequence[Comparison]) -> str:
    """The answer in one sentence, for training time or the first measure that was probed."""
    if not dataset.pairs:
        shown = units.listing([phrases.spoken(series) for series in dataset.all_series])
        were = "was" if len(dataset.all_series) == 1 else "were"
        needs = "a crossover needs a recurrent and an attention model"
        return f"Only {shown} {were} measured: {needs}."
    if is_too_busy(comparisons):
        # A measurement is a point in one process: that is what the command repeats.
        disturbed = [row for row in dataset.rows if row.is_disturbed]
        count = len(disturbed)
        kept = all("remeasure=0" in row.command.split() for row in disturbed)
        but = " without remeasure=0" if kept else ""
        return (
            f"This machine was too busy to say; run the same command again{but}: it repeats the "
            f"{units.counted(count, 'disturbed measurement')}."
        )
    same = _answering(comparisons)
    if not same:
        failed = any(one.recurrent.failed or one.attention.failed for one in comparisons)
        done = "finished" if failed else "was measured"
        return f"No probe {done} at two context lengths for both kinds of model."
    measure = same[0].measure
    if len(same) == 1:
        return _answer(same[0])
    # In how many pairs of one measure the recurrent model does what.
    compared = f"{len(same)} pairs of a recurrent and an attention model"
    parts = []
    if crossing := [comparison for comparison in same if comparison.kind == "crosses"]:
        first = min(crossing, key=lambda comparison: comparison.crossings[0].number)
        parts.append(
            f"the recurrent model overtakes attention in {len(crossing)} of {compared}, first at "
            f"about {units.tokens(first.crossings[0].number)} tokens of context "
            f"({phrases.name(first.recurrent.series)} against "
            f"{phrases.name(first.attention.series)})"
        )
    for kind, does in PAIRS.items():
        if count := len([comparison for comparison in same if comparison.kind == kind]):
            who = "it" if parts else f"of {compared} the recurrent one"
            parts.append(f"in {count} {who} {does}")
    every = len([comparison for comparison in comparisons if comparison.measure == measure])
    if every > len(same):
        parts.append(f"{every - len(same)} of all {every} pairs could not be compared")
    return f"In {measure.noun}, {'; '.join(parts)}."


PAIRS = {
    "always": "is cheaper wherever the two differ",
    "reverse": "is cheaper only up to some length",
    "several": "crosses attention more than once",
    "equal": "needs the same at every length compared",
    "undecided": "has no crossover that is decided",
    "never": "is cheaper at no length compared",
}
"""By kind of comparison, what a recurrent model does in so many pairs."""


def is_too_busy(comparisons: Sequence[Comparison]) -> bool:
    """Whether disturbed points are why the first measure that was probed says nothing: they are at
    as many lengths as are left, and none of those is decided."""
    probed = [
        comparison
        for comparison in comparisons
        if comparison.recurrent.points and comparison.attention.points
    ]
    first = [comparison for comparison in probed if comparison.measure == probed[0].measure]
    lost = {point.length for comparison in first for point in comparison.disturbed}
    left = {length for comparison in first for length in comparison.sides}
    decided = any(
        comparison.on(BELOW, ABOVE, EQUAL) and comparison.kind != "missing" for comparison in first
    )
    return bool(lost) and len(lost) >= len(left) and not decided


def _answering(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons that the headline is about."""
    compared = [comparison for comparison in comparisons if comparison.kind != "missing"]
    return [comparison for comparison in compared if comparison.measure == compared[0].measure]


def _answer(comparison: Comparison) -> str:
    mine, other = (
        phrases.spoken(comparison.recurrent.series),
        phrases.spoken(comparison.attention.series),
    )
    wins = comparison.measure.wins
    if comparison.kind in ("equal", "several"):
        return phrases.verdict(comparison)
    ends = phrases.exceptions(comparison)
    if comparison.kind in ("crosses", "reverse"):
        start = "From" if comparison.kind == "crosses" else "Only up to"
        place = f"about {units.tokens(comparison.crossings[0].number)} tokens of context"
        return f"{start} {place}, {mine} {wins} than {other}{ends}."
    cheaper, dearer = comparison.on(BELOW), comparison.on(ABOVE)
    lengths = phrases.compared(comparison)
    everywhere = f"at every context length {lengths}, {phrases.span(comparison)}"
    if len(cheaper) == len(comparison.sides):
        return units.capital(f"{mine} {wins} than {other} {everywhere}.")
    if comparison.kind == "never":
        return (
            f"At no context length {lengths}, {phrases.span(comparison)}, {mine} {wins} than "
            f"{other}."
        )
    if cheaper:
        return units.capital(
            f"{mine} {wins} than {other} {phrases.where(comparison, BELOW)}{ends}."
        )
    if dearer:
        return units.capital(
            f"{other} {wins} than {mine} {phrases.where(comparison, ABOVE)}{ends}."
        )
    if comparison.on(EQUAL):
        return phrases.verdict(comparison)
    return (
        f"Whether {mine} {wins} than {other} is not decided at any context length {lengths}, "
        f"{phrases.span(comparison)}."
    )


def interval(comparisons: Sequence[Comparison]) -> str:
    """The interval that belongs to the headline, where it names the crossover of one pair."""
    same = _answering(comparisons)
    if is_too_busy(comparisons) or len(same) != 1 or same[0].kind not in ("crosses", "reverse"):
        return ""
    crossing = same[0].crossings[0]
    return phrases.interval(crossing) + (" tokens" if crossing.ends else "")


def answered(comparisons: Sequence[Comparison]) -> Measure | None:
    """What the headline is about; None where nothing is compared."""
    same = _answering(comparisons)
    return same[0].measure if same else None


def alone(comparisons: Sequence[Comparison]) -> Comparison | None:
    """The one comparison whose verdict the headline and its interval say already."""
    same = _answering(comparisons)
    return same[0] if len(same) == 1 and not is_too_busy(comparisons) else None
