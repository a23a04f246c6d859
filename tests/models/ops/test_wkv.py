"""What kernels write in fp32 has its room, whatever torch's default is: with bf16-true, bf16."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from models.ops.wkv import wkv4, wkv6, wkv7
from models.ops.wkv4 import cpu
from tests.models.ops.native import skip_without

pytestmark = skip_without(cpu.library)


def numbers(*shape: int) -> Tensor:
    made = torch.rand(shape, generator=torch.Generator().manual_seed(len(shape)), dtype=torch.float)
    return (0.1 + made / 2).requires_grad_()


def of_4() -> tuple[Tensor, Tensor]:
    k = numbers(2, 70, 32)
    return k, wkv4(-numbers(32), numbers(32), k, k, backend="cpu")[0]


def of_6() -> tuple[Tensor, Tensor]:
    k = numbers(2, 70, 2, 16)
    return k, wkv6(k, -k, k, k, numbers(2, 16), backend="cpu")[0]


def of_7() -> tuple[Tensor, Tensor]:
    k = numbers(2, 70, 2, 16)
    return k, wkv7(k, -k, k, k, -k / 4, k / 4, backend="cpu")[0]


@pytest.mark.parametrize("of", [of_4, of_6, of_7])
def test_the_default_type_changes_nothing(of: Callable[[], tuple[Tensor, Tensor]]) -> None:
    found = []
    for default in (torch.float32, torch.bfloat16):
        torch.set_default_dtype(default)
        try:
            k, y = of()
            (gradient,) = torch.autograd.grad(y.sum(), k)
        finally:
            torch.set_default_dtype(torch.float32)
        found.append((y.detach(), gradient))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
