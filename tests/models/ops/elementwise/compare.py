"""A fused operation against its formula in fp64, values and gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SHAPES = [(1, 1, 1), (2, 33, 7), (1, 600, 16), (3, 40, 50), (1, 1030, 90)]
HEADS = [(1, 1, 1, 4), (2, 33, 3, 7), (1, 300, 2, 64), (1, 40, 5, 20)]
dtypes = pytest.mark.parametrize("dtype", DTYPES)
shapes = pytest.mark.parametrize("shape", SHAPES)
heads = pytest.mark.parametrize("shape", HEADS)


def compare(
    fused: Callable[..., Any], plain: Callable[..., Any], inputs: Any, tolerance: float
) -> None:
    """Outputs and gradients of `fused` against `plain` in fp64, relative to the largest value."""
    torch.manual_seed(1)
    ours = [x.detach().clone().requires_grad_() for x in inputs]
    true = [x.detach().double().requires_grad_() for x in inputs]
    got, want = as_tuple(fused(*ours)), as_tuple(plain(*true))
    grads = [torch.randn_like(x) for x in got]
    got += torch.autograd.grad(got, ours, grads)
    want += torch.autograd.grad(want, true, [x.double() for x in grads])
    for ours_x, true_x in zip(got, want, strict=True):
        error = (ours_x.double() - true_x).abs().max() / true_x.abs().max().clamp(min=1e-3)
        assert error <= tolerance, error


def as_tuple(result: Any) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def rounding(dtype: torch.dtype, steps: int = 2) -> float:
    """Tolerance for a result rounded to `dtype` after some fp32 arithmetic."""
    return max(steps * torch.finfo(dtype).eps, 3e-6)
