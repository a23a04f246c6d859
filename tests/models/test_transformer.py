"""The Transformer's fused formulas against others in fp64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from core.errors import UserError
from models.transformer import rms_norm, swiglu
from tests.models.ops.elementwise.compare import compare, dtypes, rounding, shapes

OPS = torch.ops.crossover


def plain_rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / torch.sqrt(x.square().mean(-1, keepdim=True) + 1e-5) * weight


def plain_swiglu(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return first * torch.sigmoid(first) * second


@shapes
@dtypes
def test_rms_norm(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    if shape[-1] == 1:
        return  # one channel is its own norm: the true gradient is nothing but rounding
    inputs = 3 * torch.randn(shape).to(dtype), torch.rand(shape[-1]) + 0.5
    compare(lambda x, w: rms_norm(x, w, 1e-5), plain_rms_norm, inputs, rounding(dtype, 4))


@shapes
@dtypes
def test_swiglu(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    r, x = 3 * torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
    compare(swiglu, plain_swiglu, (torch.cat((r, x), -1),), rounding(dtype, 4))


def test_opcheck() -> None:
    g, weight = torch.randn(2, 9, 18, requires_grad=True), torch.rand(18, requires_grad=True)
    torch.library.opcheck(OPS.rms_norm, (g, weight, 1e-5))
    torch.library.opcheck(OPS.swiglu, (g,))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: rms_norm(g, torch.rand(4), 1e-5), "weight must be .18."),
        (lambda g: swiglu(g[..., 1:]), r"x must be .2, 9, 2\*F., got .2, 9, 17."),
    ],
)
def test_bad_input(call: Callable[..., object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        call(torch.randn(2, 9, 18))
