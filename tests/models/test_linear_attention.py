"""Linear attention: its equations, the size of its state, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from core.errors import UserError
from models.contract import named_tensors
from tests.registered_models import shaken, some_tokens


def as_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention `[B, T, H, N]` with phi(q)^T phi(k) where softmax has exp(q^T k)."""
    q, k = (torch.where(x > 0, x + 1, x.exp()) for x in (q, k))
    weights = torch.einsum("bthn,bshn->bhts", q, k).tril()
    weights = weights / (weights.sum(-1, keepdim=True) + 1e-6)
    return torch.einsum("bhts,bshn->bthn", weights, v)


def convolved(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The short convolution `[B, T, C]`, token by token."""
    width, ys = weight.shape[1], []
    for t in range(x.shape[1]):
        y = torch.zeros_like(x[:, t]) if bias is None else bias
        for back in range(min(width, t + 1)):
            y = y + weight[:, width - 1 - back] * x[:, t - back]
        ys.append(torch.nn.functional.silu(y))
    return torch.stack(ys, dim=1)


@torch.no_grad()
@pytest.mark.parametrize("n_conv", [1, 4])
def test_it_is_attention_with_another_kernel_in_fp64(n_conv: int) -> None:
    mixer = shaken("linear_attention", n_conv=n_conv).double().blocks[0].mixer
    x = torch.randn(2, 75, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    qkv = mixer.qkv(x)
    qkv = convolved(qkv, mixer.conv.weight) if n_conv > 1 else qkv
    y = as_attention(*qkv.unflatten(-1, (3, 2, 32)).unbind(2))
    expected = mixer.output(y.flatten(2))
    torch.testing.assert_close(mixer(x, None, None)[0], expected, rtol=1e-9, atol=1e-9)


def test_its_state_is_a_matrix_and_a_vector_a_head_whatever_the_context() -> None:
    model = shaken("linear_attention")
    assert model.recurrent and model.title == "linear attention"
    for length in (1, 300):
        _, state = model(some_tokens(3, length), model.init_state(3))
        one_layer = 2 * (32 * 32 + 32) + 3 * 3 * 64
        assert sum(leaf.numel() for _, leaf in named_tensors(state)) == 2 * 3 * one_layer


def test_its_weights_add_up_to_one() -> None:
    model = shaken("linear_attention").eval()
    mixer = model.blocks[1].mixer
    with torch.no_grad():
        mixer.conv.weight[128:] = 0
        mixer.qkv.weight[128:] = 0  # no values but what is set now
        mixer.conv.bias = torch.nn.Parameter(torch.tensor([0.0] * 128 + [2.0] * 64))
        mixer.output.weight.copy_(torch.eye(64))
    y, _, _ = mixer(torch.randn(2, 50, 64), None, None)
    value = 2 / (1 + math.exp(-2))
    torch.testing.assert_close(y, torch.full_like(y, value), rtol=1e-4, atol=0)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"model.n_embd=64 must be a multiple of model.head_size=48"
    ):
        shaken("linear_attention", head_size=48)
    with pytest.raises(UserError, match=r"model.n_conv=0 must be 1 or more"):
        shaken("linear_attention", n_conv=0)
