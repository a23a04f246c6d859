"""The two readable forms against each other, against the paper and against fp64."""

import pytest
import torch
from torch import Tensor

from models.ops.wkv import wkv5, wkv6
from models.ops.wkv6.reference import wkv6_sequential
from tests.models.ops.closeness import assert_close
from tests.models.ops.wkv6.cases import Operator, random_case, run


def chunked(
    r: Tensor, w: Tensor, k: Tensor, v: Tensor, u: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    return (wkv6 if w.dim() == 4 else wkv5)(r, w, k, v, u, state, backend="reference")


def by_pairs(r: Tensor, w: Tensor, k: Tensor, v: Tensor, u: Tensor, state: Tensor) -> Tensor:
    """The sum over all earlier tokens that the recurrence stands for, term by term."""
    w = w.expand_as(r)
    y = torch.zeros_like(r)
    for t in range(r.shape[1]):
        since = w[:, :t].sum(1).exp()
        y[:, t] = torch.einsum("bhk,bhkv->bhv", r[:, t] * since, state)
        for s in range(t):
            between = w[:, s + 1 : t].sum(1).exp()
            y[:, t] += (r[:, t] * k[:, s] * between).sum(-1, keepdim=True) * v[:, s]
        y[:, t] += (r[:, t] * k[:, t] * u).sum(-1, keepdim=True) * v[:, t]
    return y


@pytest.mark.parametrize("constant", [True, False])
def test_sequential_is_the_sum_over_earlier_tokens(constant: bool) -> None:
    case = [x.double() for x in random_case(2, 13, 2, 3, constant=constant)[:6]]
    torch.testing.assert_close(wkv6_sequential(*case)[0], by_pairs(*case), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("length", [1, 2, 3, 31, 32, 33, 64, 101])
@pytest.mark.parametrize("constant", [True, False])
def test_chunked_form_and_its_backward_are_exact(length: int, constant: bool) -> None:
    case = random_case(2, length, 3, 5, seed=length, constant=constant)
    got = run(chunked, case, torch.float64)
    assert_close(got, run(wkv6_sequential, case, torch.float64), 1e-12)


@pytest.mark.parametrize("constant", [True, False])
def test_chunked_form_passes_gradcheck(constant: bool) -> None:
    case = random_case(1, 5, 2, 3, constant=constant)
    case = case._replace(w=case.w - 1e-3)  # gradcheck steps to both sides
    inputs = [x.double().requires_grad_() for x in case[:6]]
    assert torch.autograd.gradcheck(chunked, inputs)


@pytest.mark.parametrize("operator", [wkv6_sequential, chunked])
@pytest.mark.parametrize("constant", [True, False])
def test_float32_is_close_to_float64(operator: Operator, constant: bool) -> None:
    case = random_case(2, 200, 2, 8, constant=constant)
    assert_close(run(operator, case), run(wkv6_sequential, case, torch.float64), 3e-5)


@pytest.mark.parametrize("decay", [0.0, -0.0, -1e-7, -20.0, -1e30, -torch.inf])
def test_any_decay(decay: float) -> None:
    case = random_case(1, 70, 2, 6)
    case.w[:, 20:50] = decay
    got, want = run(chunked, case), run(wkv6_sequential, case, torch.float64)
    assert_close(got, want, 1e-5)
    if decay < -87:
        assert not got["w"][:, 20:50].any()
