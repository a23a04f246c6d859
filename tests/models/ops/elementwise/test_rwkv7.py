"""RWKV-7's preparations against their formulas in fp64."""

import math

import pytest
import torch

from core.errors import UserError
from models.ops.elementwise import delta_keys, log_decay, value_residual
from tests.models.ops.elementwise.compare import compare, dtypes, heads, rounding, shapes

OPS = torch.ops.crossover


def plain_decay(e, w0):
    return -math.exp(-0.5) / (1 + torch.exp(-(w0 + e)))


def plain_residual(v, first, e, v0):
    share = torch.sigmoid(v0 + e)
    return v * (1 - share) + first * share


def plain_keys(k, e, a0, k_k, k_a, count):
    rate = torch.sigmoid(a0 + e)
    kappa = (k * k_k).unflatten(-1, (count, -1))
    kappa = kappa / kappa.square().sum(-1, keepdim=True).sqrt().clamp(min=1e-12)
    key = k + k * (rate - 1) * k_a
    rate = rate.unflatten(-1, (count, -1))
    return key.unflatten(-1, (count, -1)), -kappa, kappa * rate


@shapes
@dtypes
def test_decay_and_residual(shape, dtype):
    torch.manual_seed(0)
    v, first, e = (2 * torch.randn(shape).to(dtype) for _ in range(3))
    base = torch.randn(shape[-1])
    compare(log_decay, plain_decay, (e, base), rounding(dtype))
    compare(value_residual, plain_residual, (v, first, e, base), rounding(dtype, 4))


@heads
@dtypes
def test_delta_keys(shape, dtype):
    torch.manual_seed(0)
    B, T, H, N = shape
    k, e = (torch.randn(B, T, H * N).to(dtype) for _ in range(2))
    a0, k_k, k_a = torch.randn(H * N), torch.rand(H * N) + 0.5, torch.randn(H * N)
    inputs = k, e, a0, k_k, k_a
    compare(lambda *x: delta_keys(*x, H), lambda *x: plain_keys(*x, H), inputs, rounding(dtype, 4))


def test_decay_stays_in_fp32_and_in_its_range():
    e = torch.tensor([-1e4, -90.0, 0.0, 90.0, 1e4], dtype=torch.bfloat16).view(1, 5, 1)
    w = log_decay(e, torch.zeros(1))
    assert w.dtype == torch.float32
    assert w.min() >= -0.60653067 and w.max() <= 0
    assert w[0, 2, 0].item() == pytest.approx(-math.exp(-0.5) / 2, rel=1e-6)


def test_a_zero_key_removes_nothing():
    zero = torch.zeros(1, 3, 8, requires_grad=True)
    key, a, b = delta_keys(zero, zero, torch.zeros(8), torch.ones(8), torch.ones(8), 2)
    assert not key.any() and not a.any() and not b.any()
    (grad,) = torch.autograd.grad(key.sum(), zero)
    assert grad.isfinite().all()


def test_opcheck():
    x, base = torch.randn(2, 9, 12, requires_grad=True), torch.rand(12, requires_grad=True)
    torch.library.opcheck(OPS.log_decay, (x, base))
    torch.library.opcheck(OPS.value_residual, (x, x, x, base))
    split, shared = x.detach().view(2, 9, 3, 4), base.detach().view(3, 4)
    torch.library.opcheck(OPS.delta_keys, (split, split, shared, shared, shared))


def test_bad_input():
    x, base = torch.randn(2, 9, 10), torch.rand(10)
    with pytest.raises(UserError, match="10 channels do not make 3 heads"):
        delta_keys(x, x, base, base, base, 3)
