"""What the tests of RWKV-5, 6 and 7 ask of all three."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor

from models.contract import named_tensors

N_LAYER, WIDTH, HEAD = 4, 128, 64
LAYERS = (0, 1, 3)


def near(value: Tensor, expected: float) -> None:
    assert value.item() == pytest.approx(expected, abs=1e-5)


def assert_names(model: Any, block: set[str]) -> None:
    """`block` are the names in every block."""
    outside = {"emb.weight", "ln_out.weight", "ln_out.bias", "head.weight"}
    outside |= {"blocks.0.ln0.weight", "blocks.0.ln0.bias"}
    expected = outside | {f"blocks.{layer}.{name}" for layer in range(N_LAYER) for name in block}
    assert set(model.state_dict()) == expected


def assert_matrices(model: Any, gains: dict[str, float], zeros: Iterable[str]) -> None:
    """Every matrix of a block is orthogonal with its gain, or zero; and the first loss follows."""
    assert 0.9e-4 < model.emb.weight.abs().max() <= 1e-4
    vocab = model.head.weight.shape[0]
    assert_orthogonal(model.head.weight, 0.5 * math.sqrt(vocab / WIDTH))
    for block in model.blocks:
        for name, gain in gains.items():
            assert_orthogonal(block.get_parameter(f"{name}.weight"), gain)
        for name in zeros:
            assert not block.get_parameter(f"{name}.weight").any()
        linear = {name for name, p in block.named_parameters() if is_matrix(name, p)}
        assert linear == {f"{name}.weight" for name in (*gains, *zeros)}
    tokens = torch.randint(0, vocab, (4, 256), generator=torch.Generator().manual_seed(0))
    loss, _ = model.loss(tokens, tokens.roll(1, dims=1))
    assert loss.item() == pytest.approx(math.log(vocab) + 0.125, abs=0.08)


def is_matrix(name: str, parameter: Tensor) -> bool:
    return name.endswith(".weight") and parameter.ndim == 2


def assert_orthogonal(matrix: Tensor, gain: float) -> None:
    rows, columns = matrix.shape
    gram = matrix @ matrix.T if rows <= columns else matrix.T @ matrix
    torch.testing.assert_close(gram, gain**2 * torch.eye(len(gram)), atol=1e-4, rtol=0)


def assert_groups(model: Any, faster: dict[str, float]) -> None:
    """Weight matrices decay and nothing else does; `faster` names end in, with their multiplier."""
    groups = {name: group for group in model.param_groups() for name in group.names}
    for name, parameter in model.named_parameters():
        assert groups[name].decay == is_matrix(name, parameter), name
        expected = next((scale for end, scale in faster.items() if name.endswith(end)), 1.0)
        assert groups[name].lr_scale == expected, name
    for end in faster:
        assert any(name.endswith(end) for name in groups)


def assert_state(model: Any) -> None:
    """L (2 + N) C numbers, the matrices in fp32, no leaf a view of something larger."""
    _, state = model(torch.zeros(1, 30, dtype=torch.long), model.init_state(1))
    leaves = dict(named_tensors(state))
    assert sum(leaf.numel() for leaf in leaves.values()) == N_LAYER * (2 + HEAD) * WIDTH
    for name, leaf in leaves.items():
        assert leaf.untyped_storage().nbytes() == leaf.numel() * leaf.element_size(), name
    half = model.__class__(model.config).bfloat16()
    _, state = half(torch.zeros(1, 3, dtype=torch.long), half.init_state(1))
    kinds = {name.split(".")[-1]: leaf.dtype for name, leaf in named_tensors(state)}
    assert kinds == {"shift": torch.bfloat16, "wkv": torch.float32}
