"""Norms of blocks: alone, of a sum, without a bias, under autocast."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.layers.norms import LayerNorm, RMSNorm
from tests.models.ops.elementwise.cases import case
from tests.models.ops.elementwise.compare import compare, dtypes, rounding

NAMES = ["layer_norm", "rms_norm", "add_layer_norm", "add_rms_norm"]


@dtypes
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1, 1, 1, 3), (2, 33, 3, 7), (1, 200, 2, 64)])
def test_values_and_gradients(
    name: str, shape: tuple[int, int, int, int], dtype: torch.dtype
) -> None:
    compare(*case(name, shape, dtype), rounding(dtype))


@pytest.mark.parametrize("name", NAMES)
def test_opcheck(name: str) -> None:
    x, weight = torch.randn(2, 9, 6, requires_grad=True), torch.randn(6, requires_grad=True)
    tensors = [x, x.detach().clone().requires_grad_()] if name.startswith("add") else [x]
    tensors += [weight] if "rms" in name else [weight, torch.randn(6, requires_grad=True)]
    op = getattr(torch.ops.crossover, name)
    torch.library.opcheck(op, (*tensors, 1e-5, torch.float32))


@pytest.mark.parametrize("norm", [LayerNorm(6), LayerNorm(6, bias=False), RMSNorm(6, 1e-5)])
def test_the_norm_of_a_sum(norm: LayerNorm | RMSNorm) -> None:
    x, delta = torch.randn(2, 5, 6), torch.randn(2, 5, 6)
    total, normed = norm.of_sum(x, delta)
    assert torch.equal(total, x + delta)
    torch.testing.assert_close(normed, norm(x + delta))
    torch.testing.assert_close(norm(x), _in_torch(norm, x))


def _in_torch(norm: LayerNorm | RMSNorm, x: Tensor) -> Tensor:
    if isinstance(norm, nn.LayerNorm):
        return nn.LayerNorm.forward(norm, x)
    return nn.functional.rms_norm(x, x.shape[-1:], norm.weight, norm.eps)


@pytest.mark.parametrize("norm", [LayerNorm(6), RMSNorm(6, 1e-5)])
def test_under_autocast_the_stream_stays_wide(norm: LayerNorm | RMSNorm) -> None:
    x, delta = torch.randn(2, 5, 6), torch.randn(2, 5, 6).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        total, normed = norm.of_sum(x, delta)
        assert norm(x).dtype == normed.dtype == torch.bfloat16
    assert total.dtype == torch.float32 and torch.equal(total, x + delta)
    assert norm.of_sum(x.bfloat16(), delta)[0].dtype == torch.bfloat16
