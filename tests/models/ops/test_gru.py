"""The GRU's recurrence as an operator: torch's own to the bit, gradients but for rounding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.ops.gru import gru


@pytest.mark.parametrize(("batch", "length", "width"), [(2, 7, 16), (1, 1, 8), (3, 40, 32)])
def test_equals_torch(batch: int, length: int, width: int) -> None:
    torch.manual_seed(0)
    module = nn.GRU(width, width, batch_first=True).double()
    weights = module.all_weights[0]
    x = torch.randn(batch, length, width, dtype=torch.float64, requires_grad=True)
    h = torch.randn(batch, width, dtype=torch.float64, requires_grad=True)

    def theirs() -> tuple[Tensor, Tensor]:
        y, last = module(x, h[None])
        return y, last[0]

    def gradients(y: Tensor, last: Tensor) -> tuple[Tensor, ...]:
        objective = (y * torch.linspace(0, 1, y.numel()).view(y.shape)).sum()
        return torch.autograd.grad(objective + (last * last).sum(), [x, h, *weights])

    for ours in (gru(x, h, weights, True), gru(x.detach(), h.detach(), weights, False)):
        for got, want in zip(ours, theirs(), strict=True):
            torch.testing.assert_close(got, want, rtol=0, atol=0)
    pairs = zip(gradients(*gru(x, h, weights, True)), gradients(*theirs()), strict=True)
    for got, want in pairs:
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
