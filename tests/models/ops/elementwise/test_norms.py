"""Norms against their formulas in fp64."""

import pytest
import torch

from core.errors import UserError
from models.ops.elementwise import bonus_head_norm, gated_head_norm, rms_norm
from tests.models.ops.elementwise.compare import compare, dtypes, heads, rounding, shapes

OPS = torch.ops.crossover
EPS = 64e-5


def plain_rms_norm(x, weight):
    return x / torch.sqrt(x.square().mean(-1, keepdim=True) + 1e-5) * weight


def group_norm(y, weight, bias):
    """As PyTorch's GroupNorm sees it: rows of C channels in H groups."""
    rows = y.flatten(0, 1).flatten(1)
    normed = torch.nn.functional.group_norm(rows, y.shape[2], weight, bias, EPS)
    return normed.view(*y.shape[:2], -1)


def plain_gated(y, g, weight, bias):
    return group_norm(y, weight, bias) * g * torch.sigmoid(g)


def plain_bonus(y, r, k, v, g, r_k, weight, bias):
    bonus = torch.einsum("bthn,bthn,hn->bth", r, k, r_k)[..., None] * v
    return (group_norm(y, weight, bias) + bonus.flatten(2)) * g


@shapes
@dtypes
def test_rms_norm(shape, dtype):
    torch.manual_seed(0)
    if shape[-1] == 1:
        return  # one channel is its own norm: the true gradient is nothing but rounding
    inputs = 3 * torch.randn(shape).to(dtype), torch.rand(shape[-1]) + 0.5
    compare(lambda x, w: rms_norm(x, w, 1e-5), plain_rms_norm, inputs, rounding(dtype, 4))


@heads
@dtypes
def test_gated_head_norm(shape, dtype):
    torch.manual_seed(0)
    B, T, H, N = shape
    y, g = torch.randn(shape).to(dtype), torch.randn(B, T, H * N).to(dtype)
    inputs = y, g, torch.rand(H * N) + 0.5, torch.randn(H * N)
    compare(lambda *x: gated_head_norm(*x, EPS), plain_gated, inputs, rounding(dtype, 4))


@heads
@dtypes
def test_bonus_head_norm(shape, dtype):
    torch.manual_seed(0)
    B, T, H, N = shape
    y, r, k, v = (torch.randn(shape).to(dtype) for _ in range(4))
    g = torch.randn(B, T, H * N).to(dtype)
    inputs = y, r, k, v, g, torch.randn(H, N) / 4, torch.rand(H * N) + 0.5, torch.randn(H * N)
    compare(lambda *x: bonus_head_norm(*x, EPS), plain_bonus, inputs, rounding(dtype, 4))


def test_a_constant_head_normalises_to_its_bias():
    y, g = torch.full((1, 2, 2, 8), 3.0), torch.ones(1, 2, 16)
    out = gated_head_norm(y, g, torch.ones(16), torch.arange(16.0), EPS)
    torch.testing.assert_close(out[0, 0], torch.arange(16.0) * torch.sigmoid(torch.tensor(1.0)))


def test_gradients_of_weights_do_not_depend_on_threads():
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


def test_opcheck():
    x, weight = torch.randn(2, 9, 3, 6, requires_grad=True), torch.rand(18, requires_grad=True)
    g = torch.randn(2, 9, 18, requires_grad=True)
    torch.library.opcheck(OPS.rms_norm, (g, weight, 1e-5))
    torch.library.opcheck(OPS.gated_head_norm, (x, g, weight, weight, EPS))
    share = torch.rand(3, 6, requires_grad=True)
    torch.library.opcheck(OPS.bonus_head_norm, (x, x, x, x, g, share, weight, weight, EPS))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda y, g: rms_norm(g, torch.rand(4), 1e-5), "weight must be .18."),
        (lambda y, g: gated_head_norm(y, g[..., 1:], g[0, 0], g[0, 0], EPS), "18 channels"),
        (lambda y, g: gated_head_norm(y, g, g[0, 0], g[0, 0, 1:], EPS), "bias must be .18."),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(UserError, match=message):
        call(torch.randn(2, 9, 3, 6), torch.randn(2, 9, 18))
