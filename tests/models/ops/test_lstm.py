"""The LSTM's recurrence as an operator: torch's own, to the bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.ops.lstm import lstm


@pytest.mark.parametrize(("batch", "length", "width"), [(2, 7, 16), (1, 1, 8), (3, 40, 32)])
def test_equals_torch(batch: int, length: int, width: int) -> None:
    torch.manual_seed(0)
    module = nn.LSTM(width, width, batch_first=True)
    weights = module.all_weights[0]
    x = torch.randn(batch, length, width, requires_grad=True)
    h, c = (torch.randn(batch, width, requires_grad=True) for _ in range(2))

    def ours(learns: bool) -> tuple[Tensor, Tensor, Tensor]:
        return lstm(x, h, c, weights, learns)

    def theirs() -> tuple[Tensor, Tensor, Tensor]:
        y, (last, cell) = module(x, (h[None], c[None]))
        return y, last[0], cell[0]

    def gradients(y: Tensor, last: Tensor, cell: Tensor) -> tuple[Tensor, ...]:
        objective = (y * torch.linspace(0, 1, y.numel()).view(y.shape)).sum()
        return torch.autograd.grad(
            objective + 0.3 * last.sum() + (cell * cell).sum(), [x, h, c, *weights]
        )

    pairs = [*zip(ours(True), theirs(), strict=True)]
    pairs += zip(gradients(*ours(True)), gradients(*theirs()), strict=True)
    with torch.no_grad():
        pairs += zip(ours(False), theirs(), strict=True)
    for got, want in pairs:
        torch.testing.assert_close(got, want, rtol=0, atol=0)
