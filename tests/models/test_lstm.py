"""The LSTM: its equations, and what the planner counts of it."""

from __future__ import annotations

import pytest
import torch

from models.step_trace import trace
from tests.registered_models import shaken, spec_of

PASSES = ("recurrence", "recurrence backward")


@torch.no_grad()
def test_a_block_follows_the_equations() -> None:
    block = shaken("lstm").blocks[0]
    x = torch.randn(1, 9, 64, generator=torch.Generator().manual_seed(0))
    (mixed, (h_last, c_last)), lstm = block.lstm(x), block.lstm
    h = c = torch.zeros(64)
    for t in range(9):
        gates = lstm.weight_ih_l0 @ x[0, t] + lstm.bias_ih_l0
        gates = gates + lstm.weight_hh_l0 @ h + lstm.bias_hh_l0
        enter, forget, new, leave = gates.chunk(4)
        c = forget.sigmoid() * c + enter.sigmoid() * new.tanh()
        h = leave.sigmoid() * c.tanh()
        torch.testing.assert_close(mixed[0, t], h, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(c_last.flatten(), c, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(h_last.flatten(), h, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_the_planner_counts_its_recurrence(precision: str) -> None:
    ops = trace(spec_of("lstm"), 2, 100, 2, "cpu", precision, False)
    counts = {kind: [op.flops for op in ops if op.kind == kind] for kind in PASSES}
    once = 2 * 200 * 4 * 64 * 128
    assert counts == {PASSES[0]: [once, once], PASSES[1]: [2 * once, 2 * once]}
