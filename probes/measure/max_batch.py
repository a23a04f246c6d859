"""The largest batch that runs within a memory budget, found by running batches.

Each try is a fresh child process that does the real work with a batch of its size; it fits if it
finishes and its peak stays within the budget. The next size is where the peaks seen so far would
reach the budget, so few tries are needed. Nothing is reported that did not run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from probes.measure.isolated import Outcome
from probes.rows import ERROR, OK, OOM

TRIES = 10
ENOUGH = 0.97
"""Share of the budget in use above which no larger batch is searched for."""
SECOND = 8
FASTEST = 64
"""A batch is at most so many times the last one that fitted."""


@dataclass
class Search:
    """What is known while looking; batches come with their peaks."""

    budget: int
    fits: list[tuple[int, int]] = field(default_factory=list)
    """Batches within the budget, ascending."""
    fails: int | None = None
    """The smallest batch that does not fit."""
    too_high: int | None = None
    """Its peak, if it ran all the same."""

    def next(self) -> int | None:
        """The batch to try, or `None` when the answer is known well enough."""
        if not self.fits:
            return 1 if self.fails is None else None
        batch, peak = self.fits[-1]
        if peak >= ENOUGH * self.budget or self.fails == batch + 1:
            return None
        room = int((self.budget - peak) / self._each())
        if self.fails is None:
            guess = SECOND if len(self.fits) == 1 else batch + room
            return min(max(guess, batch + 1), FASTEST * batch)
        return batch + room if 0 < room < self.fails - batch else (batch + self.fails) // 2

    def _each(self) -> float:
        """Bytes of one more sequence, by the two peaks nearest to the budget."""
        batch, peak = self.fits[-1]
        if self.fails is not None and self.too_high is not None:
            return max((self.too_high - peak) / (self.fails - batch), 1.0)
        if len(self.fits) == 1:
            return float(self.budget)
        before, lower = self.fits[-2]
        return max((peak - lower) / (batch - before), 1.0)


def largest_batch(run: Callable[[int], Outcome], budget: int) -> Outcome:
    """Try batches with `run` until the largest that fits is known within a few percent.

    The outcome is that of the largest one, with `max_batch`, `budget_bytes` and `tried` among its
    facts; `oom` if one sequence does not fit, and the failure itself if a batch failed otherwise.
    """
    search, tried = Search(budget), list[dict[str, Any]]()
    best: Outcome | None = None
    common: dict[str, Any] = {"budget_bytes": budget, "tried": tried}
    while (batch := search.next()) is not None and len(tried) < TRIES:
        outcome = run(batch)
        peak = outcome.facts.get("peak_bytes")
        tried.append(
            {"batch": batch, "status": outcome.status, "peak_bytes": peak, "error": outcome.error}
        )
        if outcome.status == OK and peak is None:
            return Outcome(ERROR, "peak memory cannot be measured on this system", common)
        if outcome.status == OK and peak is not None and peak <= budget:
            search.fits.append((batch, peak))
            best = outcome
        elif outcome.status in (OK, OOM):
            search.fails, search.too_high = batch, peak
        else:
            return Outcome(outcome.status, f"batch {batch}: {outcome.error}", common)
    if best is None:
        needs = tried[-1]["peak_bytes"]
        need = f", it needs {needs:,} bytes" if needs else ""
        return Outcome(OOM, f"not one sequence fits into {budget:,} bytes{need}", common)
    return Outcome(OK, None, {**best.facts, **common, "max_batch": search.fits[-1][0]})
