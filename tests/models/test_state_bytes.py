"""What every model keeps of its context, as exact integers beside closed forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from models.contract import state_bytes
from models.registry import build
from tests.registered_models import shaken, some_tokens, spec_of

FP32 = 4  # bytes
NUMBERS: dict[str, Callable[[Any], int]] = {
    "rwkv4": lambda c: 5 * c.n_embd,
    "rwkv5": lambda c: (2 + c.head_size) * c.n_embd,
    "rwkv6": lambda c: (2 + c.head_size) * c.n_embd,
    "rwkv7": lambda c: (2 + c.head_size) * c.n_embd,
    "gru": lambda c: c.n_embd,
    "lstm": lambda c: 2 * c.n_embd,
    "linear_attention": lambda c: (c.head_size + 1 + 3 * (c.n_conv - 1)) * c.n_embd,
    "gated_deltanet": lambda c: (
        c.heads * c.head_size * (c.expand_v * c.head_size + (c.n_conv - 1) * (2 + c.expand_v))
    ),
    "mamba2": lambda c: c.inner * c.n_state + (c.n_conv - 1) * (c.inner + 2 * c.n_state),
}
"""Of one layer and sequence. A convolution over K tokens keeps K - 1."""


@pytest.mark.parametrize("name", NUMBERS)
def test_a_recurrence_keeps_a_number_that_its_formula_says(name: str) -> None:
    model = shaken(name)
    expected = 3 * model.config.n_layer * NUMBERS[name](model.config) * FP32
    assert state_bytes(model.init_state(3)) == expected
    _, state = model(some_tokens(3, 9), model.init_state(3))
    assert state_bytes(state) == expected  # whatever it has read


def test_attention_keeps_keys_and_values_of_all_tokens_or_of_its_window() -> None:
    for options, kept in (({}, 100), ({"window": 24}, 24), ({"n_kv_head": 1, "n_head": 2}, 50)):
        model: Any = build(spec_of("transformer", **options))
        numbers = 2 * model.config.n_embd * kept * model.config.n_layer
        blocks = model.init_state(1, capacity=100)["blocks"]
        assert state_bytes(blocks) == numbers * FP32
