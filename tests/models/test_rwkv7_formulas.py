"""RWKV-7's fused formulas against others in fp64."""

import math

import pytest
import torch
from torch import Tensor

from core.errors import UserError
from models.rwkv7 import bonus_head_norm, delta_keys, log_decay, value_residual
from tests.models.ops.elementwise.compare import compare, dtypes, heads, rounding, shapes

OPS = torch.ops.crossover
EPS = 64e-5


def plain_decay(e: Tensor, w0: Tensor) -> Tensor:
    return -math.exp(-0.5) / (1 + torch.exp(-(w0 + e)))


def plain_residual(v: Tensor, first: Tensor, e: Tensor, v0: Tensor) -> Tensor:
    share = torch.sigmoid(v0 + e)
    return v * (1 - share) + first * share


def plain_keys(
    k: Tensor, e: Tensor, a0: Tensor, k_k: Tensor, k_a: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    rate = torch.sigmoid(a0 + e)
    kappa = k * k_k
    kappa = kappa / kappa.square().sum(-1, keepdim=True).sqrt().clamp(min=1e-12)
    return k + k * (rate - 1) * k_a, -kappa, kappa * rate


def group_norm(y: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """As PyTorch's GroupNorm sees it: rows of C channels in H groups."""
    rows = y.flatten(0, 1).flatten(1)
    normed = torch.nn.functional.group_norm(rows, y.shape[2], weight, bias, EPS)
    return normed.view(*y.shape[:2], -1)


def plain_bonus(
    y: Tensor, r: Tensor, k: Tensor, v: Tensor, g: Tensor, r_k: Tensor, weight: Tensor, bias: Tensor
) -> Tensor:
    bonus = torch.einsum("bthn,bthn,hn->bth", r, k, r_k)[..., None] * v
    return (group_norm(y, weight, bias) + bonus.flatten(2)) * g


@shapes
@dtypes
def test_decay_and_residual(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    v, first, e = (2 * torch.randn(shape).to(dtype) for _ in range(3))
    base = torch.randn(shape[-1])
    compare(log_decay, plain_decay, (e, base), rounding(dtype))
    compare(value_residual, plain_residual, (v, first, e, base), rounding(dtype, 4))


@heads
@dtypes
def test_delta_keys(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    k, e = (torch.randn(shape).to(dtype) for _ in range(2))
    heads = shape[2:]
    inputs = k, e, torch.randn(heads), torch.rand(heads) + 0.5, torch.randn(heads)
    compare(delta_keys, plain_keys, inputs, rounding(dtype, 4))


@heads
@dtypes
def test_bonus_head_norm(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    B, T, H, N = shape
    y, r, k, v = (torch.randn(shape).to(dtype) for _ in range(4))
    g = torch.randn(B, T, H * N).to(dtype)
    inputs = y, r, k, v, g, torch.randn(H, N) / 4, torch.rand(H * N) + 0.5, torch.randn(H * N)
    compare(lambda *x: bonus_head_norm(*x, EPS), plain_bonus, inputs, rounding(dtype, 4))


def test_decay_stays_in_fp32_and_in_its_range() -> None:
    e = torch.tensor([-1e4, -90.0, 0.0, 90.0, 1e4], dtype=torch.bfloat16).view(1, 5, 1)
    w = log_decay(e, torch.zeros(1))
    assert w.dtype == torch.float32
    assert w.min() >= -0.60653067 and w.max() <= 0
    assert w[0, 2, 0].item() == pytest.approx(-math.exp(-0.5) / 2, rel=1e-6)


def test_a_zero_key_removes_nothing() -> None:
    zero, one = torch.zeros(1, 3, 2, 4, requires_grad=True), torch.ones(2, 4)
    key, a, b = delta_keys(zero, zero, torch.zeros(2, 4), one, one)
    assert not key.any() and not a.any() and not b.any()
    (grad,) = torch.autograd.grad(key.sum(), zero)
    assert grad.isfinite().all()


def test_opcheck() -> None:
    x, base = torch.randn(2, 9, 12, requires_grad=True), torch.rand(12, requires_grad=True)
    torch.library.opcheck(OPS.log_decay, (x, base))
    torch.library.opcheck(OPS.value_residual, (x, x, x, base))
    split, shared = x.detach().view(2, 9, 3, 4), base.detach().view(3, 4)
    torch.library.opcheck(OPS.delta_keys, (split, split, shared, shared, shared))
    split.requires_grad_(), shared.requires_grad_()
    args = (split, split, split, split, x, shared, base, base, EPS)
    torch.library.opcheck(OPS.bonus_head_norm, args)


def test_bad_input() -> None:
    x, base = torch.randn(2, 9, 2, 5), torch.rand(2, 5)
    with pytest.raises(UserError, match=r"delta_keys: k_k must be \[2, 5\], got \[10\]"):
        delta_keys(x, x, base, base.flatten(), base)
