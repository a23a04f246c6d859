"""The GRU: its equations, its state, and what the planner counts of it."""

from __future__ import annotations

import pytest
import torch

from models.contract import named_tensors
from models.step_trace import trace
from tests.registered_models import shaken, some_tokens, spec_of


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


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_it_trains_in_bfloat16_with_a_state_in_fp32(precision: str) -> None:
    model, tokens = shaken("gru"), some_tokens(2, 20)
    expected = model.loss(tokens, tokens)[0].item()
    if precision == "bf16-true":
        model.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
        loss, state = model.loss(tokens, tokens, model.init_state(2))
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=0.02)
    assert {leaf.dtype for _, leaf in named_tensors(state)} == {torch.float32}
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_planner_counts_its_products(precision: str) -> None:
    ops = trace(spec_of("gru"), 2, 100, 2, "cpu", precision, False)
    model = shaken("gru")
    # No gradient of the embeddings' products is asked for, nor of the state before the first token.
    assert sum(op.flops for op in ops) == pytest.approx(3 * model.flops(2, 100), rel=0.02)


def test_its_state_is_one_vector_a_layer_whatever_the_context() -> None:
    model = shaken("gru")
    assert model.recurrent and model.title == "the GRU"
    for length in (1, 300):
        _, state = model(some_tokens(3, length), model.init_state(3))
        assert [leaf.shape for _, leaf in named_tensors(state)] == [(3, 64)] * 2
