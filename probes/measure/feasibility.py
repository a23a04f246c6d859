"""Predict which points cannot finish, so that they are recorded and not tried.

Only lower bounds count: tensors that must exist; work, at twice the highest rate measured on the
device; costs that grow at least as fast as between the two longest contexts measured so far (time
and memory are convex in the context length); and a shorter context that failed in this sweep.
Whatever may be possible is tried.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from core.units import size_bytes
from models.contract import state_bytes
from models.meta import build_meta
from models.registry import ModelSpec
from probes.measure.isolated import Outcome
from probes.measure.points import Point
from probes.measure.tasks.timing import DTYPES, TRAINING, Task
from probes.measure.worker import flops
from probes.rows import OK, OOM, PREDICTED_OOM, PREDICTED_TIMEOUT, TIMEOUT, Row

SURE = 1.1  # a peak read from /proc is good to a few percent
FASTER = 2.0  # than the matrix product that was timed: other shapes may do a little better
UNBOUNDED = ("max_batch", "max_batch_train")  # these find out for themselves what fits


@dataclass(frozen=True)
class Seen:
    """A point that was measured, and the memory it was allowed."""

    row: Row
    memory_bytes: int


class Predictor:
    """Predictions from the rows of a sweep; `peak_flops` is the highest rate measured, if any."""

    def __init__(self, timeout_s: float, peak_flops: float | None) -> None:
        self.timeout_s, self.peak_flops = timeout_s, peak_flops
        self._seen: dict[str, list[Seen]] = defaultdict(list)
        self._models: dict[str, Any] = {}

    def learn(self, row: Row, memory_bytes: int) -> None:
        """Record a row of this sweep, or a valid one of an earlier sweep."""
        self._seen[_curve(row, row.target, row.config)].append(Seen(row, memory_bytes))

    def impossible(self, point: Point, task: Task) -> Outcome | None:
        """The failure that the point would end in; `None` if it may finish."""
        if point.probe in UNBOUNDED:
            return None
        curve = self._seen[_curve(point, point.spec.target, point.spec.config)]
        # With another batch, as where tokens per batch are fixed, costs are not comparable.
        shorter = [
            outcome for outcome in curve
            if outcome.row.batch == point.batch and outcome.row.context_length < point.length
        ]  # fmt: skip
        return (
            _failed_before(shorter, task)
            or self._too_large(point, task, shorter)
            or self._too_slow(point, task, shorter)
        )

    def _too_large(self, point: Point, task: Task, shorter: list[Seen]) -> Outcome | None:
        limit = task.memory_bytes
        least = self._least_bytes(task)
        if least > limit:
            what = "weights and gradients" if task.probe in TRAINING else "weights and state"
            return _not_tried(
                PREDICTED_OOM,
                f"{what} alone are {size_bytes(least)}, the limit is {size_bytes(limit)}",
            )
        expected = _extrapolated(shorter, point.length, lambda row: (row.peak_bytes or 0,) * 2)
        if expected and expected[0] > SURE * limit:
            return _not_tried(
                PREDICTED_OOM,
                f"at least {size_bytes(expected[0])} by the peaks at {expected[1]}, the limit is "
                f"{size_bytes(limit)}",
            )
        return None

    def _too_slow(self, point: Point, task: Task, shorter: list[Seen]) -> Outcome | None:
        parts = task.decode_steps if task.probe == "decode" else 1

        def whole(seconds: float) -> float:
            """Least seconds of all repeats, if one part of one takes `seconds` or more."""
            pass_seconds = parts * seconds
            timed = min(task.repeats * pass_seconds, max(task.repeat_seconds, pass_seconds))
            return timed if task.probe == "generate" else task.warmup * pass_seconds + timed

        expected = _extrapolated(
            shorter, point.length, lambda row: (min(row.seconds), max(row.seconds))
        )
        if expected and whole(expected[0]) > self.timeout_s:
            return _not_tried(
                PREDICTED_TIMEOUT,
                f"at least {whole(expected[0]):,.0f} s by the times at {expected[1]}, the limit is "
                f"{self.timeout_s:g} s",
            )
        model = self._model(task.spec)
        work = flops(model, task) if model is not None else None
        if work and self.peak_flops:
            least = whole(work / (FASTER * self.peak_flops))
            if least > self.timeout_s:
                return _not_tried(
                    PREDICTED_TIMEOUT,
                    f"at least {least:,.0f} s at twice the highest rate measured here "
                    f"({self.peak_flops:.3g} operations per second), the limit is "
                    f"{self.timeout_s:g} s",
                )
        return None

    def _least_bytes(self, task: Task) -> int:
        """Bytes of tensors that exist together whatever the kernels do; 0 if nothing is known."""
        model = self._model(task.spec)
        if model is None or task.probe in ("layer", "operator"):
            return 0
        weights = sum(parameter.numel() for parameter in model.parameters())
        if task.probe in TRAINING:
            return 2 * 4 * weights
        width = DTYPES[task.precision].itemsize
        with torch.device("meta"):
            state = model.to(DTYPES[task.precision]).init_state(task.batch, task.length)
        return width * weights + state_bytes(state)

    def _model(self, spec: ModelSpec) -> Any:
        """The model without memory; `None` if it cannot be built, which its child will say."""
        key = json.dumps([spec.target, spec.config], sort_keys=True)
        if key not in self._models:
            try:
                self._models[key] = build_meta(spec)
            except Exception:
                self._models[key] = None
        return self._models[key]


def _curve(point: Point | Row, target: str, config: dict[str, Any]) -> str:
    return json.dumps([target, config, point.probe, point.sweep], sort_keys=True)


def _failed_before(shorter: list[Seen], task: Task) -> Outcome | None:
    failures = {
        OOM: (PREDICTED_OOM, "ran out of memory"),
        PREDICTED_OOM: (PREDICTED_OOM, "are too many for the memory"),
        TIMEOUT: (PREDICTED_TIMEOUT, "did not finish within the same time limit"),
        PREDICTED_TIMEOUT: (PREDICTED_TIMEOUT, "are too many for the time limit"),
    }
    for outcome in shorter:
        if outcome.row.status in failures and outcome.memory_bytes >= task.memory_bytes:
            status, what = failures[outcome.row.status]
            return _not_tried(status, f"{outcome.row.context_length:,} tokens {what} already")
    return None


def _extrapolated(
    shorter: list[Seen], length: int, bounds: Callable[[Row], tuple[float, float]]
) -> tuple[float, str] | None:
    """The least a convex cost can be at `length`, and the two lengths that say so.

    It lies above the line through two earlier points; of the last the lower of its `bounds` is
    taken and of the one before the upper, so that noise makes no line steeper than it is.
    """
    rows = {
        outcome.row.context_length: outcome.row for outcome in shorter if outcome.row.status == OK
    }
    if len(rows) < 2:
        return None
    first, last = sorted(rows)[-2:]
    low = bounds(rows[last])[0]
    rise = max(0.0, low - bounds(rows[first])[1]) / (last - first)
    return low + rise * (length - last), f"{first:,} and {last:,} tokens"


def _not_tried(status: str, why: str) -> Outcome:
    return Outcome(status, f"not tried: {why}", {})
