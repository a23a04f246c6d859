"""Blocks around torch's own recurrent networks: what holds for each of them."""

from __future__ import annotations

import pytest
import torch

from models.contract import named_tensors
from tests.registered_models import shaken, some_tokens


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_it_trains_in_bfloat16_with_a_state_in_fp32(name: str, precision: str) -> None:
    model, tokens = shaken(name), some_tokens(2, 20)
    expected = model.loss(tokens, tokens)[0].item()
    if precision == "bf16-true":
        model.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
        loss, state = model.loss(tokens, tokens, model.init_state(2))
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=0.02)
    assert {leaf.dtype for _, leaf in named_tensors(state)} == {torch.float32}
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "title", "vectors"), [("gru", "the GRU", 1), ("lstm", "the LSTM", 2)]
)
def test_its_state_is_some_vectors_a_layer_whatever_the_context(
    name: str, title: str, vectors: int
) -> None:
    model = shaken(name)
    assert model.recurrent and model.title == title
    for length in (1, 300):
        _, state = model(some_tokens(3, length), model.init_state(3))
        assert [leaf.shape for _, leaf in named_tensors(state)] == [(3, 64)] * 2 * vectors
