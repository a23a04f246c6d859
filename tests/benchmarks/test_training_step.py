"""Whole training steps: rates, ratios and shares, and a step that learns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

from benchmarks import training_step
from benchmarks.harness import Samples


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first takes two seconds, the second one."""

    def in_turns(works: Mapping[Any, Callable[[], object]], rounds: int) -> dict[Any, Samples]:
        taken = zip(works, (2.0, 1.0), strict=True)
        return {name: Samples((seconds,) * rounds) for name, seconds in taken}

    monkeypatch.setattr(training_step, "in_turns", in_turns)


@pytest.mark.usefixtures("seconds")
def test_a_ratio_is_one_of_tokens_per_second() -> None:
    long, short = (training_step.some_tokens(1, length) for length in (300, 100))
    row = training_step.rate_row("x", print, long, print, short, 2)
    assert row.figures == ("150 and 100", "1.50 (1.50 to 1.50)")


@pytest.mark.usefixtures("seconds")
def test_a_share_is_that_of_all_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = training_step.small_rwkv
    monkeypatch.setattr(training_step, "OPERATORS", {"rwkv6": lambda *shape: tiny()})
    row = training_step.operator_share("rwkv6", 3)
    assert row.figures == ("2.00 s", "12.000 s", "600.0% (600.0% to 600.0%)")


def test_a_step_changes_the_weights_and_keeps_no_gradient() -> None:
    weight = torch.nn.Parameter(torch.ones(1))
    step = training_step.stepping(
        lambda tokens: (weight * tokens).sum(), torch.optim.SGD([weight], lr=0.5)
    )
    step(torch.tensor([1.0]))
    assert weight.item() == 0.5 and weight.grad is None
