"""RWKV-5's fused formula against another in fp64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from core.errors import UserError
from models.rwkv5 import gated_head_norm
from tests.models.ops.elementwise.compare import compare, dtypes, heads, rounding

OPS = torch.ops.crossover
EPS = 64e-5


def group_norm(y: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """As PyTorch's GroupNorm sees it: rows of C channels in H groups."""
    rows = y.flatten(0, 1).flatten(1)
    normed = torch.nn.functional.group_norm(rows, y.shape[2], weight, bias, EPS)
    return normed.view(*y.shape[:2], -1)


def plain_gated(y: Tensor, g: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return group_norm(y, weight, bias) * g * torch.sigmoid(g)


@heads
@dtypes
def test_gated_head_norm(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    B, T, H, N = shape
    y, g = torch.randn(shape).to(dtype), torch.randn(B, T, H * N).to(dtype)
    inputs = y, g, torch.rand(H * N) + 0.5, torch.randn(H * N)
    compare(lambda *x: gated_head_norm(*x, EPS), plain_gated, inputs, rounding(dtype, 4))


def test_a_constant_head_normalises_to_its_bias() -> None:
    y, g = torch.full((1, 2, 2, 8), 3.0), torch.ones(1, 2, 16)
    out = gated_head_norm(y, g, torch.ones(16), torch.arange(16.0), EPS)
    torch.testing.assert_close(out[0, 0], torch.arange(16.0) * torch.sigmoid(torch.tensor(1.0)))


def test_gradients_of_weights_do_not_depend_on_threads() -> None:
    torch.manual_seed(0)
    y, g = torch.randn(4, 400, 2, 64), torch.randn(4, 400, 128)
    weight, bias = torch.rand(128), torch.rand(128)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        given = [x.clone().requires_grad_() for x in (y, g, weight, bias)]
        gated_head_norm(*given, EPS).square().sum().backward()
        results.append([x.grad for x in given])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_opcheck() -> None:
    x, weight = torch.randn(2, 9, 3, 6, requires_grad=True), torch.rand(18, requires_grad=True)
    g = torch.randn(2, 9, 18, requires_grad=True)
    torch.library.opcheck(OPS.gated_head_norm, (x, g, weight, weight, EPS))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda y, g: gated_head_norm(y, g[..., 1:], g[0, 0], g[0, 0], EPS),
            "g must be .2, 9, 18.",
        ),
        (lambda y, g: gated_head_norm(y, g, g[0, 0], g[0, 0, 1:], EPS), "bias must be .18."),
    ],
)
def test_bad_input(call: Callable[..., object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        call(torch.randn(2, 9, 3, 6), torch.randn(2, 9, 18))
