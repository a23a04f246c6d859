"""The GRU: its equations, and what the planner counts of it."""

from __future__ import annotations

import pytest
import torch

from models.step_trace import trace
from tests.registered_models import shaken, spec_of


@torch.no_grad()
def test_a_block_follows_the_equations() -> None:
    block = shaken("gru").blocks[0]
    x = torch.randn(1, 9, 64, generator=torch.Generator().manual_seed(0))
    (mixed, h_last), gru = block.gru(x), block.gru
    h = torch.zeros(64)
    for t in range(9):
        from_x = (gru.weight_ih_l0 @ x[0, t] + gru.bias_ih_l0).chunk(3)
        from_h = (gru.weight_hh_l0 @ h + gru.bias_hh_l0).chunk(3)
        reset, keep = (torch.sigmoid(from_x[gate] + from_h[gate]) for gate in (0, 1))
        h = keep * h + (1 - keep) * torch.tanh(from_x[2] + reset * from_h[2])
        torch.testing.assert_close(mixed[0, t], h, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(h_last.flatten(), h, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_planner_counts_its_products(precision: str) -> None:
    ops = trace(spec_of("gru"), 2, 50, 2, "cpu", precision, False)
    model = shaken("gru")
    # No gradient of the embeddings' products is asked for, nor of the state before the first token.
    assert sum(op.flops for op in ops) == pytest.approx(3 * model.flops(2, 50), rel=0.02)
