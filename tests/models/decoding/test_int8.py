"""Matrices in int8: what is rounded, and that prompts and single tokens read the same numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from core.errors import UserError
from models.contract import clone_state
from models.decoding.int8 import Int8Linear, round_to_int8
from models.decoding.program import is_possible
from tests.registered_models import NAMES, shaken, some_tokens

if not is_possible(shaken("rwkv4")):
    pytest.skip("the native step cannot be built here", allow_module_level=True)

STEPPING = [name for name in NAMES if shaken(name).can_step]


def rounded(name: str) -> Any:
    model = shaken(name).eval()
    round_to_int8(model)
    return model


def test_a_weight_is_off_by_half_a_scale_at_most() -> None:
    layer = nn.Linear(33, 5)
    with torch.no_grad():
        layer.weight[2] = 0  # has no scale
        layer.weight[3] *= 1e-30
    ours = Int8Linear(layer)
    assert ours.rows.dtype == torch.int8 and ours.rows.shape == (5, 33)
    assert (ours.rows.abs().amax(dim=1)[[0, 1, 3, 4]] == 127).all()
    error = (ours.weight - layer.weight).abs().amax(dim=1)
    assert (error <= ours.scales * 0.5001).all() and error[2] == 0
    assert ours.bias is layer.bias
    x = torch.randn(2, 33)
    torch.testing.assert_close(ours(x), x @ ours.weight.T + layer.bias)


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("name", STEPPING)
def test_a_step_computes_with_the_numbers_that_a_prompt_is_read_with(name: str, batch: int) -> None:
    model = rounded(name)
    assert not [each for each in model.modules() if type(each) is nn.Linear]
    _, state = model(some_tokens(batch, 9), model.init_state(batch))
    other = clone_state(state)
    for position in range(3):
        token = some_tokens(batch, 1, seed=position)
        got, state = model(token, state)
        hidden, other = model.hidden(token, other)
        torch.testing.assert_close(got, model.head(hidden), rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("in_int8", [False, True])
def test_a_row_of_a_batch_has_the_bits_it_has_alone(in_int8: bool) -> None:
    model = rounded("rwkv7") if in_int8 else shaken("rwkv7").eval()
    tokens = some_tokens(11, 1)
    together, _ = model(tokens, model.init_state(11))
    for row in range(11):
        alone, _ = model(tokens[row : row + 1], model.init_state(1))
        assert torch.equal(together[row], alone[0])


@torch.no_grad()
def test_logits_stay_near() -> None:
    exact, _ = shaken("rwkv7").eval()(some_tokens(1, 30))
    got, _ = rounded("rwkv7")(some_tokens(1, 30))
    away = (got - exact).norm() / exact.norm()
    assert 0 < away < 0.02


def test_what_cannot_be_in_int8_is_refused() -> None:
    with pytest.raises(UserError, match=r"dtype=int8: .* is decoded by torch.*dtype=bfloat16"):
        round_to_int8(shaken("gru"))
    model = shaken("rwkv4").double()  # as little a native step as one on a GPU
    with pytest.raises(UserError, match="dtype=int8 needs the native step of a CPU"):
        round_to_int8(model)
    assert [each for each in model.modules() if type(each) is nn.Linear]
