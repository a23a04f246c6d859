"""What a person feels of a model: the wait after a document of 50 pages, the pace of the answer,
and the memory that the document takes.

Each is measured where a point lies near that length. Else it is predicted: a curve of the shape
that the kind of model has by its construction, fitted to what was measured and carried on. A state
of fixed size makes reading a + bT and writing constant; a memory that grows with the context makes
them a + bT + cT² and a + bT. Nothing is predicted from too short a range, of attention with a
window, or where the fits of the bootstrap disagree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from core.interval import Interval
from probes.analysis import bootstrap
from probes.analysis.bootstrap import centres, errors, grouped, scatter
from probes.analysis.costs import PAGE
from probes.analysis.crossovers import Curve, Point
from probes.analysis.dataset import Series
from probes.analysis.estimators import interval_of
from probes.analysis.shape_fit import nonnegative, powers

PAGES = 50
NEAR = 0.1
"""Share by which a measured length may differ from that of the document."""
REACH = 16
"""Times the longest measured length that a fit is carried on."""
AGREED = 3.0
"""Times its lower end that the upper end of a prediction may be."""
DEARER = 2.0
"""Times the upper end of the fits that a prediction allows. What is carried on cannot show a cache
that overflows: measured at 35,000 tokens, costs were 1.0 to 1.8 times what fits to 4,096 tokens had
predicted (docs/benchmarks/2026-12-01-page.md)."""
STRAIGHT = 1e-3
"""Share by which a memory may depart from a straight line that is carried on."""

READING, WRITING, KEEPING = "reading", "writing", "keeping"
MEASURED, PREDICTED, CALCULATED, FAILED, UNKNOWN = (
    "measured", "predicted", "calculated", "failed", "unknown",
)  # fmt: skip


@dataclass(frozen=True)
class Felt:
    """One number of one model: seconds to read the document, seconds for a token after it, or
    bytes of its state."""

    series: Series
    what: str
    measure: str
    """Key of the measure that it is read from."""
    how: str
    value: Interval = field(default_factory=Interval)
    """A prediction has ends; no value where it is `failed` or `unknown`."""
    status: str = ""
    """How the point at that length failed."""
    longest: int | None = None
    """Longest length measured, in tokens, whose value is `reached`."""
    reached: float | None = None

    def plain(self) -> dict[str, Any]:
        """The number as JSON values."""
        kept = {
            name: getattr(self, name) for name in ("measure", "how", "status", "longest", "reached")
        }
        return kept | self.value.plain()


@dataclass(frozen=True)
class Document:
    """The numbers of every model, after so many tokens."""

    length: int
    felt: tuple[Felt, ...]

    def of(self, what: str) -> list[Felt]:
        """The numbers of one kind, by model."""
        return [one for one in self.felt if one.what == what]

    def plain(self) -> dict[str, Any]:
        """The numbers as JSON values, by kind and model."""
        kinds = dict.fromkeys(one.what for one in self.felt)
        return {
            "length": self.length,
            **{what: {one.series.label: one.plain() for one in self.of(what)} for what in kinds},
        }


def document(
    all_series: Sequence[Series], curves: Mapping[str, Sequence[Curve]]
) -> Document | None:
    """The numbers that `curves`, by key of the measure, give; None where nothing was measured."""
    reading = "ttft" if any(curve.measured for curve in curves.get("ttft", ())) else "prefill"
    sources = {READING: reading, WRITING: "decode", KEEPING: "state"}
    drawn = {
        what: {curve.series.label: curve for curve in curves.get(key, ())}
        for what, key in sources.items()
    }
    if not any(curve.measured for by_label in drawn.values() for curve in by_label.values()):
        return None
    length = _length(curve for by_label in drawn.values() for curve in by_label.values())
    return Document(
        length,
        tuple(
            _felt(series, what, key, drawn[what].get(series.label),
                  drawn[KEEPING].get(series.label), length)
            for what, key in sources.items()
            for series in all_series
            if drawn[what]
        ),
    )  # fmt: skip


def _length(curves: Any) -> int:
    """The length near that of the document that most curves have a point at, or its own."""
    wanted = PAGES * PAGE
    near = [
        point.length
        for curve in curves
        for point in curve.points
        if abs(point.length - wanted) <= NEAR * wanted
    ]
    return max(sorted(near), key=near.count, default=wanted)


def _felt(
    series: Series, what: str, key: str, curve: Curve | None, state: Curve | None, length: int
) -> Felt:
    points = curve.measured if curve else {}
    longest = max(points, default=None)
    if curve is None or longest is None:
        return Felt(series, what, key, UNKNOWN)
    made = partial(Felt, series, what, key, longest=longest, reached=points[longest].value)
    if length in points:
        return made(MEASURED, Interval(points[length].value))
    if lost := [point for point in curve.failed if point.length == length]:
        return made(FAILED, status=lost[0].status)
    grows = state_grows(state)
    if series.window or grows is None or length > REACH * longest:
        return made(UNKNOWN)
    if what == KEEPING:
        value = _straight(points, length)
        return made(UNKNOWN) if value is None else made(CALCULATED, Interval(value))
    predicted = _predicted(points, length, int(grows) + (what == READING))
    return made(UNKNOWN) if predicted is None else made(PREDICTED, predicted)


def state_grows(state: Curve | None) -> bool | None:
    """Whether the memory of the context grows with it; None where that was not measured at two
    lengths."""
    sizes = {point.value for point in state.measured.values()} if state else set()
    return None if state is None or len(state.measured) < 2 else len(sizes) > 1


def _straight(points: Mapping[int, Point], length: int) -> float | None:
    """Where the line through the points leads, if they lie on one."""
    lengths = np.array(sorted(points), dtype=np.float64)
    if len(lengths) < 3:
        return None
    values = np.array([points[int(at)].value for at in lengths])
    line = np.polyfit(lengths, values, 1)
    if (np.abs(np.polyval(line, lengths) / values - 1) > STRAIGHT).any():
        return None
    return float(np.round(np.polyval(line, length)))


def _predicted(points: Mapping[int, Point], length: int, degree: int) -> Interval | None:
    """The cost at `length` by a polynomial with coefficients >= 0, fitted to relative errors.

    The interval is that of the bootstrap, what the points scatter about the curve included, with
    `DEARER` times its upper end. None with no more points than coefficients, or where its ends lie
    too far apart.
    """
    samples = {at: point.processes for at, point in points.items()}
    lengths, groups = grouped(samples)
    if len(lengths) < degree + 2:
        return None
    values = centres(samples, lengths)
    design = powers(lengths, values)[:, : degree + 1]
    at = (length / lengths.max()) ** np.arange(degree + 1)
    targets = np.ones((1, len(lengths)))
    fitted = nonnegative(design, targets)[0]
    rng = np.random.default_rng(0)
    drawn = errors(groups, rng)
    noise = np.zeros((bootstrap.DRAWS, len(lengths))) if drawn is None else drawn
    freedom = len(lengths) - int(np.count_nonzero(fitted))
    noise = noise + scatter((targets - fitted @ design.T)[0], freedom, noise, rng)
    found = interval_of(float(fitted @ at), nonnegative(design, np.exp(noise)) @ at)
    low, high = found.ends or (0.0, 0.0)
    if low <= 0 or high > AGREED * low:
        return None
    return replace(found, high=DEARER * high)
