"""The memory that a trace counts is that of the real tensors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from models.registry import build
from models.step_trace import LOSS, kept_bytes, trace
from tests.registered_models import spec_of


@pytest.mark.parametrize("name", ["rwkv4", "transformer"])
def test_the_count_of_bytes_is_that_of_the_real_tensors(name: str) -> None:
    spec = spec_of(name)
    kept: dict[int, Any] = {}
    model: Any = build(spec)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        tokens = torch.zeros(1, 64, dtype=torch.int64)
        model.objective(tokens, tokens)
    real = sum(
        t.untyped_storage().nbytes() for pointer, t in kept.items() if pointer not in weights
    )
    counted = kept_bytes(spec, 64, False, "32-true")
    assert 0.9 * real < counted < 1.1 * real
    assert kept_bytes(spec, 64, True, "32-true") < counted
    assert kept_bytes(spec, 128, False, "32-true") == pytest.approx(2 * counted, rel=0.1)


def test_a_model_of_one_layer_is_traced() -> None:
    spec = spec_of("rwkv4")
    single = replace(spec, config={**spec.config, "n_layer": 1})
    ops = trace(single, 1, 16, 1, "cpu", "16-mixed", False)
    assert any(op.phase > LOSS for op in ops)
    assert kept_bytes(single, 16, True, "32-true") > 0
