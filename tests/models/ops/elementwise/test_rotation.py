"""Rotary positions against multiplication of complex numbers in fp64."""

import pytest
import torch
from torch import Tensor

from core.errors import UserError
from models.ops.elementwise import rotate
from tests.models.ops.elementwise.compare import compare, dtypes, rounding


def plain_rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    turned = torch.complex(first, second) * torch.complex(cos, sin)[:, None]
    return torch.cat((turned.real, turned.imag), -1)


@pytest.mark.parametrize("half", [1, 3, 16, 32, 40])
@dtypes
def test_rotate(half: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    angle = 100 * torch.rand(11, half)
    x = torch.randn(2, 11, 3, 2 * half).to(dtype)
    cos, sin = angle.cos(), angle.sin()
    compare(
        lambda x: rotate(x, cos, sin), lambda x: plain_rotate(x, cos.double(), sin.double()), (x,),
        rounding(dtype),
    )  # fmt: skip
    wider = torch.cat((x, x), dim=2)  # a slice of a fused projection needs no copy
    assert torch.equal(rotate(wider[:, :, :3], cos, sin), rotate(x, cos, sin))
    assert torch.equal(
        rotate(x.transpose(0, 1).contiguous().transpose(0, 1), cos, sin), rotate(x, cos, sin)
    )


def test_opcheck() -> None:
    x = torch.randn(2, 9, 3, 6, requires_grad=True)
    torch.library.opcheck(torch.ops.crossover.rotate, (x, torch.rand(9, 3), torch.rand(9, 3), 1))


def test_bad_input() -> None:
    with pytest.raises(UserError, match="x must be"):
        rotate(torch.randn(2, 9, 5, 1), torch.rand(9, 3), torch.rand(9, 3))
