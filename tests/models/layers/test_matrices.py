"""The matrices of a block, rounded all at once as they are on a GPU under autocast."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.layers.matrices import matrices_rounded
from models.ops.elementwise.fused import native_as_on
from models.step_trace import Recorder


class Pair(nn.Module):
    matrices = ("first",)

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(8, 4))
        self.scale = nn.Parameter(torch.randn(2, 4))  # a matrix in shape alone
        self.linear = nn.Linear(4, 8)

    def forward(self, x: Tensor, rounded: bool) -> Tensor:
        with matrices_rounded(self) if rounded else contextlib.nullcontext():
            return self.linear((x @ self.first) * self.scale[0]) @ self.first


def step(pair: Pair, x: Tensor, rounded: bool) -> tuple[list[Tensor], list[str]]:
    """Result and gradients, and the operations below autograd."""
    pair.zero_grad()
    recorder = Recorder([x, *pair.parameters()], lambda: 0.0)
    names: list[str] = []
    record = recorder._op
    recorder._op = lambda func, *rest: names.append(func.name()) or record(func, *rest)  # type: ignore
    with recorder:
        with torch.autocast("cpu", torch.bfloat16):
            y = pair(x, rounded)
        y.float().square().sum().backward()
    grads: list[Any] = [parameter.grad for parameter in pair.parameters()]
    return [y, *grads], names


def test_values_and_gradients_are_those_of_autocast_in_fewer_launches() -> None:
    pair, x = Pair(), torch.randn(3, 8)
    want, many = step(pair, x, False)
    with native_as_on("cuda"):
        got, few = step(pair, x, True)
    assert all(torch.equal(*both) for both in zip(got, want, strict=True))
    assert few.count("crossover::round_all") == 2 and len(few) == len(many) - 2
    assert isinstance(pair.first, nn.Parameter) and pair.first.dtype == torch.float32


def test_weights_are_back_after_an_error() -> None:
    pair = Pair()
    with (
        native_as_on("cuda"),
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(ZeroDivisionError),
        matrices_rounded(pair),
    ):
        assert pair.first.dtype == pair.linear.weight.dtype == torch.bfloat16
        assert pair.scale.dtype == pair.linear.bias.dtype == torch.float32
        raise ZeroDivisionError
    assert pair.first.dtype == pair.linear.weight.dtype == torch.float32


def test_frozen_weights_have_no_gradient() -> None:
    pair = Pair()
    pair.first.requires_grad_(False)
    with native_as_on("cuda"):
        (_, first, *rest), _ = step(pair, torch.randn(3, 8), True)
    assert first is None and all(grad is not None for grad in rest)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_nothing_changes_where_nothing_is_rounded(device: str) -> None:
    pair = Pair()
    with native_as_on(device), contextlib.ExitStack() as stack:
        if device == "cpu":
            stack.enter_context(torch.autocast("cpu", torch.bfloat16))
        with matrices_rounded(pair):
            assert pair.first.dtype == torch.float32
