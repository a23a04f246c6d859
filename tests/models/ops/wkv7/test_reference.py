"""The two readable forms against each other and against fp64."""

import pytest
import torch
from torch import Tensor

from models.ops.wkv import wkv7
from models.ops.wkv7.reference import _size, wkv7_sequential
from tests.models.ops.closeness import assert_close
from tests.models.ops.wkv7.cases import FLOOR, KINDS, Operator, decays, random_case, run


def chunked(*inputs: Tensor) -> tuple[Tensor, Tensor]:
    return wkv7(*inputs, backend="reference")


def naive(
    r: Tensor, w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """The paper's form: the state times a transition matrix, plus a rank-one update."""
    ys = []
    for t in range(r.shape[1]):
        transition = torch.diag_embed(w[:, t].exp()) + a[:, t, :, :, None] * b[:, t, :, None, :]
        state = state @ transition + v[:, t, :, :, None] * k[:, t, :, None, :]
        ys.append(torch.einsum("bhij,bhj->bhi", state, r[:, t]))
    return torch.stack(ys, 1), state


@pytest.mark.parametrize("fresh", [True, False])
def test_sequential_is_the_papers_recurrence(fresh: bool) -> None:
    case = random_case(2, 21, 2, 5, fresh=fresh)
    got = run(wkv7_sequential, case, torch.float64)
    assert_close(got, run(naive, case, torch.float64), 1e-12)


@pytest.mark.parametrize("length", [1, 2, 31, 32, 33, 64, 101])
@pytest.mark.parametrize("fresh", [True, False])
def test_chunked_form_and_its_backward_are_exact(length: int, fresh: bool) -> None:
    case = random_case(2, length, 2, 7, seed=length, fresh=fresh)
    got = run(chunked, case, torch.float64)
    assert_close(got, run(wkv7_sequential, case, torch.float64), 1e-11)


def test_chunked_form_passes_gradcheck() -> None:
    case = random_case(1, 34, 1, 2)
    inputs = [x.double().requires_grad_() for x in case.inputs]
    assert torch.autograd.gradcheck(chunked, inputs)


@pytest.mark.parametrize("operator", [wkv7_sequential, chunked])
@pytest.mark.parametrize("floor", [True, False])
def test_float32_is_close_to_float64(operator: Operator, floor: bool) -> None:
    case = random_case(1, 200, 2, 64)
    if floor:
        case = case._replace(w=torch.full_like(case.w, FLOOR))
    assert_close(run(operator, case), run(wkv7_sequential, case, torch.float64), 4e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_any_decay(kind: str) -> None:
    case = random_case(2, 70, 2, 8)
    case = case._replace(w=decays(kind, case.w), a=case.a / 2)
    want = run(wkv7_sequential, case._replace(w=case.w.clamp(min=-1e4)), torch.float64)
    # Where every state dies at once the gradients of w are zero, and what is left is rounding.
    assert_close(run(chunked, case), want, 2e-5)


def test_chunks_are_as_long_as_the_decays_allow() -> None:
    w = torch.zeros(1, 64, 1, 4)
    assert _size(w + FLOOR) == 32
    assert _size(w - 3) == 16
    assert _size(w - 1e9) == 1
