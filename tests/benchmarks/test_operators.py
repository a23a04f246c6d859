"""Passes to be timed, and errors of results."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.operators import largest_error, passes, poisoned, results


def product(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return x * y, x + y


def test_a_pass_is_forward_alone_or_all_gradients() -> None:
    x, y = (torch.tensor([value], requires_grad=True) for value in (2.0, 3.0))
    first, second = passes(product, [x, y], backward=False)()
    assert (first.item(), second.item(), first.requires_grad) == (6.0, 5.0, False)
    # The gradients of the results are the results: d = 6 y + 5 and 6 x + 5.
    assert [grad.item() for grad in passes(product, [x, y], backward=True)()] == [23.0, 17.0]


def test_results_are_values_then_gradients_in_fp64() -> None:
    weights = [torch.tensor([1.0]), torch.tensor([10.0])]
    given = [torch.tensor([2.0]), torch.tensor([3.0])]
    found = results(product, given, weights, torch.float32, "cpu")
    assert [x.item() for x in found] == [6.0, 5.0, 13.0, 12.0]
    assert {x.dtype for x in found} == {torch.float64}


def test_the_largest_error_is_relative_and_named() -> None:
    true = [torch.tensor([100.0]), torch.tensor([0.01])]
    assert largest_error(true, true) == (0.0, 0)
    error, place = largest_error([true[0] + 1, true[1] + 0.05], true)
    assert place == 1 and abs(error - 0.5) < 1e-6  # over 0.1, for the true value is smaller
    assert largest_error([true[0], true[1] * float("nan")], true) == (float("inf"), 1)


def test_new_tensors_are_poisoned_within() -> None:
    with poisoned():
        assert torch.empty(3).isnan().all()
    assert not torch.are_deterministic_algorithms_enabled()
