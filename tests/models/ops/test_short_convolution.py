"""The short convolution and the running sum: any split of time gives the same."""

from __future__ import annotations

import itertools

import torch
from torch.utils.flop_counter import FlopCounterMode

from models.ops.short_convolution import (
    preceding,
    running_sum,
    short_convolution,
    short_convolution_flops,
)

CUTS = (0, 1, 2, 5, 30)


def test_a_convolution_in_parts_is_that_of_the_whole() -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 30, 6), torch.randn(6, 4), torch.randn(6)
    whole, none = short_convolution(x, weight, bias, None)
    assert none is None
    state, parts = torch.zeros(2, 3, 6), []
    for first, end in itertools.pairwise(CUTS):
        y, state = short_convolution(x[:, first:end], weight, bias, state)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 1), whole)
    assert torch.equal(state, x[:, -3:])
    past = torch.cat((torch.zeros(2, 3, 6), x), 1)
    by_hand = bias + sum(weight[:, j] * past[:, j : j + 30] for j in range(4))
    torch.testing.assert_close(whole, by_hand * by_hand.sigmoid())


def test_its_operations_are_those_that_are_counted() -> None:
    with FlopCounterMode(display=False) as counter:
        short_convolution(torch.randn(2, 30, 6), torch.randn(6, 4), None, torch.zeros(2, 3, 6))
    assert counter.get_total_flops() == short_convolution_flops(2, 30, 6, 4)


def test_what_is_before_is_given_back_unchanged() -> None:
    x, state = torch.randn(2, 1, 6), torch.randn(2, 3, 6)
    before, after = preceding(x, state, 3)
    assert torch.equal(before, state) and torch.equal(after, torch.cat((state[:, 1:], x), 1))
    assert not preceding(x, None, 3)[0].any()


def test_sums_go_on_and_are_in_fp32() -> None:
    x = torch.randn(2, 30, 3, 4).bfloat16()
    whole, total = running_sum(x, None)
    assert whole.dtype == torch.float32 and torch.equal(total, whole[:, -1])
    _, state = running_sum(x[:, :11], None)
    rest, last = running_sum(x[:, 11:], state)
    torch.testing.assert_close(rest, whole[:, 11:])
    torch.testing.assert_close(last, total)
