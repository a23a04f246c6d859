"""The two readable forms against each other and against fp64."""

import pytest
import torch
from torch import Tensor

from models.ops.wkv import wkv4
from models.ops.wkv4.reference import wkv4_sequential
from tests.models.ops.closeness import assert_close
from tests.models.ops.wkv4.cases import Operator, random_case, run


def chunked(w: Tensor, u: Tensor, k: Tensor, v: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    return wkv4(w, u, k, v, state, backend="reference")


def naive(w: Tensor, u: Tensor, k: Tensor, v: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The unscaled recurrence of the paper, valid where nothing overflows."""
    aa, bb, pp = state.unbind(1)
    scale, ys = pp.detach().exp(), []
    a, b = aa * scale, bb * scale
    for t in range(k.shape[1]):
        now = torch.exp(u + k[:, t])
        ys.append((a + now * v[:, t]) / (b + now))
        a = w.exp() * a + k[:, t].exp() * v[:, t]
        b = w.exp() * b + k[:, t].exp()
    return torch.stack(ys, 1), torch.stack([a, b, torch.zeros_like(a)], 1)


@pytest.mark.parametrize("fresh", [True, False])
def test_sequential_is_the_papers_recurrence(fresh: bool) -> None:
    case = random_case(2, 21, 5, fresh=fresh)
    got = run(wkv4_sequential, case, torch.float64)
    assert_close(got, run(naive, case, torch.float64), 1e-12)


@pytest.mark.parametrize("length", [1, 2, 31, 32, 33, 64, 101])
@pytest.mark.parametrize("fresh", [True, False])
def test_chunked_form_and_its_backward_are_exact(length: int, fresh: bool) -> None:
    case = random_case(2, length, 7, seed=length, fresh=fresh)
    got = run(chunked, case, torch.float64)
    assert_close(got, run(wkv4_sequential, case, torch.float64), 1e-11)


def test_chunked_form_passes_gradcheck() -> None:
    case = random_case(1, 35, 2)
    *inputs, state = (x.double() for x in case[:5])
    scale = state[:, 2:]  # held: it has no gradient by definition

    def scale_free(
        w: Tensor, u: Tensor, k: Tensor, v: Tensor, sums: Tensor
    ) -> tuple[Tensor, Tensor]:
        y, out = chunked(w, u, k, v, torch.cat([sums, scale], 1))
        return y, out[:, 0] / out[:, 1]

    inputs = [x.clone().requires_grad_() for x in (*inputs, state[:, :2])]
    assert torch.autograd.gradcheck(scale_free, inputs)


@pytest.mark.parametrize("operator", [wkv4_sequential, chunked])
def test_float32_is_close_to_float64(operator: Operator) -> None:
    case = random_case(2, 200, 8)
    assert_close(run(operator, case), run(wkv4_sequential, case, torch.float64), 5e-6)


def test_no_gradient_reaches_the_scale_of_the_state() -> None:
    case = random_case(2, 40, 4)
    for operator in (wkv4_sequential, chunked):
        assert run(operator, case)["state_in"][:, 2].abs().max() == 0
