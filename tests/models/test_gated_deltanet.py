"""Gated DeltaNet: its recurrence in fp64, its state, its initial values, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from core.errors import UserError
from models.contract import named_tensors
from models.registry import build
from tests.models.test_linear_attention import convolved
from tests.registered_models import shaken, some_tokens, spec_of


def by_equations(m: Any, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Equation 10 of arXiv 2412.06464 and what is around it; states `[B, H, P, N]`."""
    heads, keys = m.heads, m.heads * m.size
    mixed = convolved(m.qkv(x), m.conv.weight)
    parts = mixed.tensor_split((keys, 2 * keys), -1)
    q, k, v = (part.unflatten(-1, (heads, -1)) for part in parts)
    q, k = q / q.norm(dim=-1, keepdim=True), k / k.norm(dim=-1, keepdim=True)
    raw, rate = m.decay_rate(x).chunk(2, -1)
    alpha = torch.exp(-m.A_log.exp() * F.softplus(raw + m.dt_bias))
    beta, ys = m.rate_limit * rate.sigmoid(), []
    for t in range(x.shape[1]):
        k_t, v_t, b_t = k[:, t, :, :, None], v[:, t, :, :, None], beta[:, t, :, None, None]
        state = alpha[:, t, :, None, None] * (state - b_t * (state @ k_t) @ k_t.mT)
        state = state + b_t * v_t @ k_t.mT
        ys.append((state @ q[:, t, :, :, None])[..., 0] / m.size**0.5)
    o = torch.stack(ys, 1)  # [B, T, H, P]
    o = o / (o.square().mean(-1, keepdim=True) + m.norm.eps).sqrt() * m.norm.weight
    return m.output(o.flatten(2) * F.silu(m.gate(x))), state


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"expand_v": 1, "rate_limit": 2.0}])
def test_it_follows_the_equations_in_fp64(options: dict[str, float]) -> None:
    mixer = shaken("gated_deltanet", **options).double().blocks[0].mixer
    x = torch.randn(2, 75, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before = mixer.init_state(2, None)
    before["conv"] = before["conv"].double()
    size = mixer.size
    zero = torch.zeros(2, mixer.heads, size * mixer.expand, size, dtype=torch.float64)
    expected, last = by_equations(mixer, x, zero)
    y, after, _ = mixer(x, before, None)
    torch.testing.assert_close(y, expected, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(after["wkv"].view_as(last), last, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("expand_v", [1, 2])
def test_its_state_is_a_matrix_a_head_whatever_the_context(expand_v: int) -> None:
    model = shaken("gated_deltanet", expand_v=expand_v)
    assert model.recurrent and model.title == "Gated DeltaNet"
    for length in (1, 300):
        _, state = model(some_tokens(3, length), model.init_state(3))
        one_layer = 3 * 16 * 16 * expand_v + 3 * 48 * (2 + expand_v)
        assert sum(leaf.numel() for _, leaf in named_tensors(state)) == 2 * 3 * one_layer


def test_its_first_decays_are_the_published_ones() -> None:
    built: Any = build(spec_of("gated_deltanet"))
    mixer = built.blocks[0].mixer
    step, rate = F.softplus(mixer.dt_bias), mixer.A_log.exp()
    assert step.min() >= 1e-3 and step.max() <= 0.1 and rate.min() > 0 and rate.max() <= 16
    assert mixer.conv.weight.std() > 0.05 and mixer.conv.weight.abs().max() <= 0.5


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(UserError, match=r"model.expand_v=0 must be 1 or more"):
        shaken("gated_deltanet", expand_v=0)
    with pytest.raises(UserError, match=r"model.rate_limit=2.5 must be above 0 and at most 2"):
        shaken("gated_deltanet", rate_limit=2.5)
