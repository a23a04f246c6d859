"""Every fault, once, with the smallest models."""

from __future__ import annotations

import pytest

from benchmarks.failover import FAULTS, SECOND, Tally, started, trial


@pytest.mark.slow  # tests/serving/test_failover.py has the same faults
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_answered_by_the_other_model(fault: str) -> None:
    # Whose caches of a long prompt do not fit into what is left to a worker without memory.
    with started("1m", deadline=3.0) as server:
        tally = Tally()
        while not tally.seconds:  # a fault may come after the answer
            trial(server, fault, tally, within=1e9)
        assert tally.answered == tally.right == tally.within == 1, tally
        assert server.ask("best", "x").model_extra["crossover"]["route"]["name"] == "best"
        assert server.ask(SECOND, "x").model == SECOND
