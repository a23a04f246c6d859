"""The norms of blocks: of the residual stream, or of what is added to it, in one pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.ops.elementwise import add_layer_norm, add_rms_norm, layer_norm, rms_norm


class LayerNorm(nn.LayerNorm):
    """(x - mean(x)) / deviation(x) * weight + bias (Ba et al. 2016, arXiv 1607.06450)."""

    def forward(self, x: Tensor) -> Tensor:
        """x `[.., C]` to `[.., C]`."""
        if self.bias is None:
            return super().forward(x)
        return layer_norm(x, self.weight, self.bias, self.eps)

    def of_sum(self, x: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        """x + delta, the residual stream, and its norm; `[.., C]` each."""
        if self.bias is None:
            total = x + delta
            return total, super().forward(total)
        return add_layer_norm(x, delta, self.weight, self.bias, self.eps)


class RMSNorm(nn.Module):
    """x / rms(x) * weight (Zhang and Sennrich 2019, arXiv 1910.07467)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """x `[.., C]` to `[.., C]`; or of heads."""
        return rms_norm(x, self.weight, self.eps)

    def of_sum(self, x: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        """x + delta, the residual stream, and its norm; `[.., C]` each."""
        return add_rms_norm(x, delta, self.weight, self.eps)
