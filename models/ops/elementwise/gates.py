"""Gates and activations."""

from __future__ import annotations

import torch
from torch import Tensor

from models.ops.elementwise import kernels
from models.ops.elementwise.fused import fused


@fused(kernels.gate, r="...", x="...")
def gate(r: Tensor, x: Tensor) -> Tensor:
    """sigmoid(r) * x for two tensors of one shape; in x's dtype."""
    return torch.sigmoid(r) * x


@fused(kernels.squared_relu, x="...")
def squared_relu(x: Tensor) -> Tensor:
    """max(x, 0) squared."""
    return x.relu().square()
