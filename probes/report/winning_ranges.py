"""Which model needs less between which lengths: the stretches of a track, from a comparison."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from probes.analysis.crossovers import Comparison
from probes.analysis.ratios import ABOVE, BELOW, EQUAL, UNDECIDED
from probes.report import phrases


@dataclass(frozen=True)
class Stretch:
    """From one length to another, in tokens, the side, and how it is called."""

    start: float
    end: float
    side: str
    text: str


@dataclass(frozen=True)
class Track:
    """Which model needs less at which length, in one measure and for one pair."""

    title: str
    """Title of the measure; empty where the track before has the same."""
    what: str
    verdict: str
    stretches: tuple[Stretch, ...]
    crossings: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Ranges:
    """All tracks, over lengths from the shortest to the longest."""

    note: str
    ticks: tuple[int, ...]
    tracks: tuple[Track, ...]


def stretches(comparison: Comparison) -> list[Stretch]:
    """The stretches in order, from the shortest length compared to the longest.

    The side between two measured lengths is theirs, where they agree, and changes at the crossing
    where one is decided between them; towards a length that is not decided, and not within the
    interval of a crossing, nothing is.
    """
    edges: list[tuple[float, float, str]] = []
    unclear = phrases.outside(comparison, UNDECIDED)
    crossings = [crossing.number for crossing in comparison.crossings]
    decided = [(at, side) for at, side in comparison.sides.items() if side in (BELOW, ABOVE)]
    # Between two decided lengths on different sides the crossing's own interval says how sure.
    across = [
        (before, after, at, sides)
        for (before, first), (after, second) in pairwise(decided)
        if first != second
        for at in crossings
        if before <= at <= after
        for sides in [(first, second)]
    ]
    for start, end in pairwise(comparison.sides):
        for before, after, at, sides in across:
            if before <= start and end <= after and start not in unclear and end not in unclear:
                edges += [
                    (max(start, left), min(end, right), side)
                    for left, right, side in ((start, at, sides[0]), (at, end, sides[1]))
                    if max(start, left) < min(end, right)
                ]
                break
        else:
            first, second = comparison.sides[start], comparison.sides[end]
            if UNDECIDED in (first, second):
                side = UNDECIDED
            else:
                side = first if second in (first, EQUAL) else second
            edges.append((start, end, side))
    joined: list[tuple[float, float, str]] = []
    for left, right, side in edges:
        if joined and joined[-1][2] == side:
            joined[-1] = (joined[-1][0], right, side)
        else:
            joined.append((left, right, side))
    named = {
        BELOW: phrases.name(comparison.recurrent.series),
        ABOVE: phrases.name(comparison.attention.series),
        UNDECIDED: "not decided",
        EQUAL: "equal",
    }
    return [Stretch(start, end, side, named[side]) for start, end, side in joined]
