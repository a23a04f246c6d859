"""LayerNorm and RMSNorm of rows, alone or of what is added to the residual stream.

Under autocast the stream may stay in fp32 while what layers take is in half precision: x and sums
have the stream's dtype, normed rows the other.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from models.ops.elementwise import kernels
from models.ops.elementwise.fused import fused


@fused(kernels.layer_norm, x="... C", weight="C", bias="C")
def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """(x - mean(x)) / sqrt(variance(x) + eps) * weight + bias, the moments over C."""
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps)


@fused(kernels.rms_norm, x="... C", weight="C")
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight, the mean over C."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


@fused(kernels.add_layer_norm, x="... C", delta="... C", weight="C", bias="C")
def add_layer_norm(
    x: Tensor, delta: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """x + delta, and its `layer_norm`."""
    total = x + delta
    return total, F.layer_norm(total, total.shape[-1:], weight, bias, eps)


@fused(kernels.add_rms_norm, x="... C", delta="... C", weight="C")
def add_rms_norm(x: Tensor, delta: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x + delta, and its `rms_norm`."""
    total = x + delta
    return total, total * torch.rsqrt(total.square().mean(-1, keepdim=True) + eps) * weight
