"""Operators are called directly where nobody watches, and nobody sees a difference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from models.ops.custom_op import Operator, custom_op


def _doubled(x: Tensor, by: float) -> list[Tensor]:
    return [by * x.detach(), x.detach() + 1]


def _remember(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    ctx.by = inputs[1]


def _differentiate(ctx: Any, grads: list[Tensor]) -> tuple[Tensor, None]:
    return ctx.by * grads[0] + grads[1], None


def _summed(tensors: list[Tensor]) -> Tensor:
    return torch.stack([x.detach() for x in tensors]).sum(0)


def _remember_count(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.count = len(inputs[0])


doubled = custom_op(
    "of_a_test_doubled",
    "(Tensor x, float by) -> Tensor[]",
    _doubled,
    lambda x, by: [torch.empty_like(x), torch.empty_like(x)],
    remember=_remember,
    differentiate=_differentiate,
)
summed = custom_op(
    "of_a_test_summed",
    "(Tensor[] tensors) -> Tensor",
    _summed,
    lambda tensors: torch.empty_like(tensors[0]),
    remember=_remember_count,
    differentiate=lambda ctx, grad: [grad] * ctx.count,
)
final = custom_op("of_a_test_final", "(Tensor x) -> Tensor", lambda x: x.clone(), torch.empty_like)


class Watching(TorchDispatchMode):
    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return op(*args, **(kwargs or {}))


@pytest.fixture
def dispatched(monkeypatch: pytest.MonkeyPatch) -> list[Operator]:
    """Operators that were called by the dispatcher."""
    met: list[Operator] = []
    for operator in (doubled, summed, final):
        op = operator.op

        def noted(*arguments: Any, operator: Operator = operator, op: Any = op) -> Any:
            met.append(operator)
            return op(*arguments)

        monkeypatch.setattr(operator, "op", noted)
    return met


def test_a_plain_call_and_its_gradient_need_no_dispatcher(dispatched: list[Operator]) -> None:
    x = torch.randn(3, requires_grad=True)
    with torch.no_grad():
        assert not doubled(x, 2.0)[0].requires_grad
    results = doubled(x, 2.0)
    assert isinstance(results, list)
    (grad,) = torch.autograd.grad(results[0].sum() + results[1].sum(), x)
    assert not dispatched and torch.equal(grad, torch.full((3,), 3.0))


def test_tensors_in_a_list_have_gradients() -> None:
    given = [torch.randn(3, requires_grad=True) for _ in range(2)]
    for grad in torch.autograd.grad(summed(given).sum(), given):
        assert torch.equal(grad, torch.ones(3))
    with torch.no_grad():
        assert torch.equal(summed(given), given[0] + given[1])


@pytest.mark.parametrize("kind", ["a mode", "a profiler", "a meta tensor", "a transformation"])
def test_who_watches_sees_the_operator(kind: str, dispatched: list[Operator]) -> None:
    x = torch.randn(3)
    if kind == "a mode":
        with Watching():
            doubled(x, 2.0)
    elif kind == "a profiler":
        with torch.autograd.profiler.profile():
            doubled(x, 2.0)
    elif kind == "a meta tensor":
        assert doubled(x.to("meta"), 2.0)[0].is_meta
    else:  # which operators with a gradient of their own do not know
        with pytest.raises(RuntimeError, match="functorch"):
            torch.func.vjp(lambda x: tuple(doubled(x, 2.0)), x)
    assert dispatched == [doubled]


def test_what_has_no_gradient_says_so() -> None:
    y = final(torch.randn(3, requires_grad=True))
    with pytest.warns(UserWarning, match="of_a_test_final: an autograd kernel was not registered"):
        y.sum().backward()
