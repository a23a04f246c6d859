"""Low-rank adapters of linear layers (LoRA, Hu et al. 2021, arXiv 2106.09685)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Adapted(nn.Linear):
    """W x + s B (A x): a linear layer whose own weights stay, with an update of low rank beside it.

    A `[R, in]` begins as torch initialises a linear layer, B `[out, R]` at zero, so that the layer
    computes at first what it computed before. Names are those of the PEFT libraries.
    """

    def __init__(
        self, layer: nn.Linear, rank: int, scale: float, draw: torch.Generator | None = None
    ) -> None:
        """`layer` gives its weights, which both then share. `draw` has the random numbers of A;
        without it A is left as it is allocated."""
        nn.Module.__init__(self)  # the weights of `nn.Linear` are there already
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias
        self.scale = scale
        first = torch.empty(rank, layer.in_features, device=layer.weight.device)
        if draw is not None:
            bound = 1 / math.sqrt(layer.in_features)
            first = (torch.rand(first.shape, generator=draw) * 2 - 1).mul_(bound).to(first.device)
        self.lora_A = nn.Parameter(first.to(layer.weight.dtype))
        self.lora_B = nn.Parameter(layer.weight.new_zeros(layer.out_features, rank).detach())

    def forward(self, input: Tensor) -> Tensor:
        low = F.linear(F.linear(input, self.lora_A), self.lora_B)
        return super().forward(input) + self.scale * low
