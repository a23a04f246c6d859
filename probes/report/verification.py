"""Somebody's report, point by point: which can be measured again, and whether ours agrees.

A point is the ratio of two models' costs at one context length, with the interval that the report
gives it: what others measure on such a machine should lie within. What a report says is not
trusted: its digest must be that of its content, and models are built from its words by whoever
calls this, who checks them as it would a command line.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from math import isclose
from typing import Any

from core.errors import UserError, shown
from core.interval import Interval
from probes.analysis.metrics import BY_KEY, Measure
from probes.report.foreign_reports import Foreign, fields_of, labels, number

CLOSE = 1e-6  # relative difference within which numbers without an interval are equal
WITHIN, OVERLAPS, OUTSIDE, NOT_MEASURED = "within", "overlaps", "outside", "not measured"


@dataclass(frozen=True)
class Model:
    """A model of a report: what it takes to build it."""

    name: str
    size: str
    config: dict[str, Any]
    """Fields, the size of the vocabulary among them."""


@dataclass(frozen=True)
class Target:
    """A point that can be measured again."""

    report: Foreign
    measure: Measure
    models: tuple[str, str]
    """Labels: recurrent, attention."""
    length: int
    """Context length, tokens."""
    theirs: Interval

    @property
    def words(self) -> str:
        """`train at 512 tokens, rwkv4 / gpt`."""
        return f"{self.measure.key} at {self.length:,} tokens, {' / '.join(self.models)}"

    def model(self, label: str) -> Model:
        """Raises `UserError` if the report does not say how to build it."""
        said = fields_of(fields_of(self.report.content.get("models")).get(label))
        config = fields_of(said.get("config"))
        name, size = said.get("model"), said.get("size")
        if not isinstance(name, str) or not isinstance(size, str) or not config:
            raise UserError(f"{self.report.path}: does not say how {shown(label, 60)} is built")
        if said.get("weights"):
            raise UserError(f"{shown(label, 60)} has weights of a file that the report has not")
        return Model(name, size, config)


@dataclass(frozen=True)
class Repeat:
    """A point that was measured again, or was to be."""

    target: Target
    ours: Interval | None
    """None where it was not measured; `reason` says why."""
    reason: str = ""
    machine: dict[str, Any] = field(default_factory=dict)
    """On what it was measured here, as in `crossover.json`."""

    @property
    def verdict(self) -> str:
        """One of `WITHIN`, `OVERLAPS` (the intervals do, the value lies outside), `OUTSIDE`, and
        `NOT_MEASURED`."""
        if self.ours is None or self.ours.value is None:
            return NOT_MEASURED
        value, theirs = self.ours.value, self.target.theirs
        if theirs.ends is None:
            return WITHIN if isclose(value, theirs.number, rel_tol=CLOSE) else OUTSIDE
        low, high = theirs.ends
        if low <= value <= high:
            return WITHIN
        own_low, own_high = self.ours.ends or (value, value)
        return OVERLAPS if own_low <= high and low <= own_high else OUTSIDE

    def differences(self) -> list[str]:
        """What is not here as the report says of its machine, for which ratios may differ."""
        theirs = self.target.report.machine
        return [
            f"{self.target.report.path}: {key} was {shown(theirs.get(key), 80)} there, and is "
            f"{shown(value, 80)} here"
            for key in ("device", "threads", "precision")
            if (value := self.machine.get(key)) is not None and str(theirs.get(key)) != str(value)
        ]

    def plain(self) -> dict[str, Any]:
        """The point and its verdict, as JSON values."""
        target = self.target
        return {
            "report": str(target.report.path),
            "digest": target.report.digest,
            "measure": target.measure.key,
            "models": list(target.models),
            "length": target.length,
            "theirs": target.theirs.plain(),
            "ours": self.ours.plain() if self.ours else None,
            "verdict": self.verdict,
            "reason": self.reason,
        }


def targets(report: Foreign) -> Iterator[Target]:
    """Every point of a report with a ratio, in the order of the report."""
    for key, said in fields_of(report.content.get("crossovers")).items():
        entry, measure = fields_of(said), BY_KEY.get(str(key).partition(":")[0])
        models = labels(entry.get("models"))
        if measure is None or models is None:
            continue
        for length, ratio in fields_of(entry.get("ratios")).items():
            theirs = Interval(*(number(fields_of(ratio).get(name)) for name in asdict(Interval())))
            if str(length).isascii() and str(length).isdigit() and theirs.value is not None:
                yield Target(report, measure, models, int(length), theirs)


def drawn(reports: Sequence[Foreign], count: int, seed: int) -> list[Target]:
    """`count` of all their points, or all if there are fewer; the same ones for the same seed."""
    every = [target for report in reports for target in targets(report)]
    return random.Random(seed).sample(every, min(count, len(every)))


def sentence(repeats: Sequence[Repeat]) -> str:
    """How many lie where."""
    counts = {
        word: sum(one.verdict == word for one in repeats)
        for word in (WITHIN, OVERLAPS, OUTSIDE, NOT_MEASURED)
    }
    said = [f"{counts[WITHIN]} of {len(repeats)} points lie within the report's intervals"]
    if counts[OVERLAPS]:
        said.append(f"of {counts[OVERLAPS]} more the intervals overlap")
    if counts[OUTSIDE]:
        said.append(f"{counts[OUTSIDE]} outside")
    if counts[NOT_MEASURED]:
        said.append(f"{counts[NOT_MEASURED]} not measured")
    return ", ".join(said)
