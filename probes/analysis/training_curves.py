"""Losses of trainings over what they have cost: one curve per setting, its seeds as a band."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from statistics import fmean
from typing import Any

from core.parsing import LARGEST
from probes.analysis.costs import Price
from probes.analysis.training_grid import Setting
from probes.training_runs import TrainingRun

MOST_POINTS = 120  # of a curve
AXES = {
    "step": ("optimizer steps", "steps"),
    "tokens": ("tokens trained on", "tokens"),
    "flops": ("operations, forward and backward", "operations"),
    "seconds": ("seconds of training steps", "s"),
    "joules": ("joules", "J"),
    "cost": ("cost", ""),
}
"""What a curve can be drawn over: the label of its axis, and its unit."""
NAMED = re.compile(r"val/([A-Za-z][A-Za-z0-9_-]{0,39})/(\w+)")
"""The figure of a named text that validates, in a row of metrics."""


@dataclass(frozen=True)
class CurvePoint:
    """The mean loss over the seeds at one step, or over neighbouring steps where there are many."""

    at: dict[str, float]
    """By axis, as far as it is known: where the last of these steps stands, the mean over seeds."""
    value: float
    low: float
    high: float
    """The lowest and the highest loss of the seeds."""
    rows: int
    """Rows of metrics that the point stands for, of each seed."""


@dataclass(frozen=True)
class LossCurve:
    """A curve with its setting, or with the one run that it is of."""

    setting: Setting
    runs: tuple[TrainingRun, ...]
    """Those in the band; one alone where it did not finish."""
    is_complete: bool
    points: tuple[CurvePoint, ...]


def curves_of(
    settings: Sequence[Setting], kind: str, measure: str, price: Price | None
) -> list[LossCurve]:
    """The curves of `kind` and the rows' figure `measure`, where there are any.

    The kinds are `train`, `val`, and `val/NAME` of a named text that validates.

    Trainings that were not trained to their last step are curves of their own.
    """
    found = []
    for setting in settings:
        parts = [(setting.counted, True)] if setting.counted else []
        parts += [((run,), run.is_complete) for run in setting.runs if run not in setting.counted]
        for runs, is_complete in parts:
            points = _points([_read(run, f"{kind}/{measure}", price) for run in runs])
            if not points and len(runs) > 1:  # rows at other steps: no band
                for run in runs:
                    if alone := _points([_read(run, f"{kind}/{measure}", price)]):
                        found.append(LossCurve(setting, (run,), is_complete, alone))
            elif points:
                found.append(LossCurve(setting, runs, is_complete, points))
    return found


def named_texts(runs: Sequence[TrainingRun], measure: str) -> list[str]:
    """The named texts of which some row has the figure `measure`, in the order of their rows."""
    found: dict[str, None] = {}
    for run in runs:
        for row in run.rows:
            for key in row:
                if (match := NAMED.fullmatch(key)) and match[2] == measure:
                    found[match[1]] = None
    return [*found]


def axes_of(curves: Sequence[LossCurve]) -> list[str]:
    """Axes that some point of these curves has a place on."""
    return [
        axis for axis in AXES if any(axis in point.at for one in curves for point in one.points)
    ]


def currency_of(runs: Sequence[TrainingRun], price: Price | None) -> str | None:
    """The currency of all costs; None if there are none, or several."""
    if price is not None:
        return price.currency
    found = {str(run.config.get("training.currency")) for run in runs if run.config.get(PRICE)}
    return found.pop() if len(found) == 1 else None


PRICE = "training.price_per_hour"


def _read(
    run: TrainingRun, key: str, price: Price | None
) -> dict[int, tuple[float, dict[str, float]]]:
    """By step, the loss and where it stands on the axes; a loss that is not finite, or of which
    no mean could be taken, is left out."""
    found = {}
    for row in run.rows:
        if (value := row.get(key)) is not None and 0 < value < LARGEST:
            found[row["step"]] = (float(value), place_of(row, price))
    return found


def place_of(row: dict[str, Any], price: Price | None) -> dict[str, float]:
    """Where a row stands on the axes that it knows."""
    place = {"step": float(row["step"])}
    for axis in AXES:
        if (value := row.get(f"train/{axis}")) is not None and 0 <= value < LARGEST:
            place[axis] = float(value)
    if price is not None:
        place.pop("cost", None)
        if "seconds" in place:
            place["cost"] = place["seconds"] / 3600 * price.per_hour
    return place


def _points(read: Sequence[dict[int, tuple[float, dict[str, float]]]]) -> tuple[CurvePoint, ...]:
    """Points at the steps that all have, neighbours taken together where they are many."""
    steps = sorted(set.intersection(*(set(rows) for rows in read))) if read else []
    size = max(1, ceil(len(steps) / MOST_POINTS))
    points = []
    for start in range(0, len(steps), size):
        chunk = steps[start : start + size]
        means = [fmean(rows[step][0] for step in chunk) for rows in read]
        last = [rows[chunk[-1]][1] for rows in read]
        shared = set.intersection(*(set(place) for place in last))
        at = {axis: fmean(place[axis] for place in last) for axis in AXES if axis in shared}
        points.append(CurvePoint(at, fmean(means), min(means), max(means), len(chunk)))
    return tuple(points)
