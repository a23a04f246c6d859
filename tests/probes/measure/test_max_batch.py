"""The search for the largest batch, on memory curves whose answer is known."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from probes.measure.isolated import Outcome
from probes.measure.max_batch import ENOUGH, TRIES, largest_batch
from probes.rows import ERROR, OK, OOM, TIMEOUT

BUDGET = 10_000_000


def memory(fixed: int, each: float, limit: float = 2 * BUDGET) -> Callable[[int], Outcome]:
    """Children whose peak is linear in the batch and that die beyond the limit."""

    def run(batch: int) -> Outcome:
        peak = int(fixed + each * batch)
        if peak > limit:
            return Outcome(OOM, "MemoryError: out", {})
        return Outcome(OK, None, {"peak_bytes": peak, "seconds": [batch * 1e-3]})

    return run


@pytest.mark.parametrize(
    ("fixed", "each"),
    [(1_000_000, 40), (1_000_000, 900), (1_000_000, 70_000), (5_000_000, 2_000_000), (0, 123_456)],
)
def test_the_largest_batch_of_a_linear_curve(fixed: int, each: float) -> None:
    outcome = largest_batch(memory(fixed, each), BUDGET)
    truth = int((BUDGET - fixed) / each)
    facts = outcome.facts
    assert outcome.status == OK
    assert facts["max_batch"] <= truth
    assert facts["max_batch"] == truth or facts["peak_bytes"] >= ENOUGH * BUDGET
    assert facts["seconds"] == [facts["max_batch"] * 1e-3], "the facts are those of that batch"
    assert len(facts["tried"]) <= TRIES
    assert facts["max_batch"] in [one["batch"] for one in facts["tried"]], "nothing is inferred"
    assert facts["budget_bytes"] == BUDGET


def test_a_jump_in_the_curve_is_bisected() -> None:
    def run(batch: int) -> Outcome:
        return memory(0, 1000.0 if batch <= 100 else 200_000.0)(batch)

    found = largest_batch(run, BUDGET).facts
    assert 60 <= found["max_batch"] <= 100
    assert {one["status"] for one in found["tried"]} == {OK, OOM}


def test_one_sequence_too_many() -> None:
    outcome = largest_batch(memory(BUDGET, 1), BUDGET)
    assert outcome.status == OOM
    assert "not one sequence fits into 10,000,000 bytes, it needs 10,000,001" in str(outcome.error)
    assert [one["batch"] for one in outcome.facts["tried"]] == [1]


@pytest.mark.parametrize("status", [ERROR, TIMEOUT])
def test_another_failure_ends_the_search(status: str) -> None:
    def run(batch: int) -> Outcome:
        return Outcome(status, "why", {}) if batch > 1 else memory(0, 1000)(batch)

    outcome = largest_batch(run, BUDGET)
    assert (outcome.status, outcome.error) == (status, "batch 8: why")
    assert "max_batch" not in outcome.facts
    assert len(outcome.facts["tried"]) == 2


def test_without_a_peak_there_is_no_answer() -> None:
    outcome = largest_batch(lambda batch: Outcome(OK, None, {"peak_bytes": None}), BUDGET)
    assert outcome.status == ERROR and "cannot be measured" in str(outcome.error)
