"""Mamba-2: its recurrence in fp64, its state, and what it refuses."""

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


def by_equations(mixer: Any, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The SSD recurrence of arXiv 2405.21060 and what is around it; states `[B, H, N, P]`."""
    z, mixed, raw = mixer.input(x).split(mixer.split, -1)
    mixed = convolved(mixed, mixer.conv.weight, mixer.conv.bias)
    v, b, c = mixed.split(mixer.parts, -1)
    v, dt = v.unflatten(-1, (mixer.heads, -1)), F.softplus(raw + mixer.dt_bias)
    decay, ys = torch.exp(-mixer.A_log.exp() * dt), []
    for t in range(x.shape[1]):
        new = b[:, t, None, :, None] * (dt[:, t, :, None] * v[:, t])[:, :, None]
        state = decay[:, t, :, None, None] * state + new
        ys.append(torch.einsum("bn,bhnp->bhp", c[:, t], state) + mixer.D[:, None] * v[:, t])
    y = torch.stack(ys, 1).flatten(2) * F.silu(z)
    y = y / (y.square().mean(-1, keepdim=True) + mixer.norm.eps).sqrt() * mixer.norm.weight
    return mixer.output(y), state


@torch.no_grad()
@pytest.mark.parametrize(("head_size", "n_state"), [(32, 32), (32, 96), (32, 8)])
def test_it_follows_the_equations_in_fp64(head_size: int, n_state: int) -> None:
    """Matrices of state that are square, and cut into squares along either side."""
    model = shaken("mamba2", head_size=head_size, n_state=n_state).double()
    mixer = model.blocks[0].mixer
    x = torch.randn(2, 75, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before = mixer.init_state(2, None)
    before["conv"] = before["conv"].double()
    zero = torch.zeros(2, mixer.heads, n_state, head_size, dtype=torch.float64)
    expected, last = by_equations(mixer, x, zero)
    y, after, _ = mixer(x, before, None)
    torch.testing.assert_close(y, expected, rtol=1e-8, atol=1e-8)
    squares = after["wkv"].unflatten(1, (mixer.heads, mixer.keys, mixer.values))
    matrix = squares.permute(0, 1, 2, 4, 3, 5).reshape(last.shape)
    torch.testing.assert_close(matrix, last, rtol=1e-8, atol=1e-8)


def test_its_state_is_a_matrix_a_head_whatever_the_context() -> None:
    model = shaken("mamba2")
    assert model.recurrent and model.title == "Mamba-2"
    for length in (1, 300):
        _, state = model(some_tokens(3, length), model.init_state(3))
        one_layer = 128 * 64 + 3 * (128 + 2 * 64)
        assert sum(leaf.numel() for _, leaf in named_tensors(state)) == 2 * 3 * one_layer


def test_a_feed_forward_layer_is_there_if_it_is_asked_for() -> None:
    alone: Any = build(spec_of("mamba2", "nano"))
    assert {block.ffn for block in alone.blocks} == {None}
    with_it = shaken("mamba2", n_ffn=80)
    assert all(block.ffn.down.in_features == 80 for block in with_it.blocks)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_inner": 100}, r"model.n_inner=100 must be a multiple of model.head_size=32"),
        ({"n_state": 48}, r"model.n_state=48 must be a multiple of model.head_size=32, or divide"),
        ({"n_state": 0}, r"model.n_state=0 must be 1 or more"),
        ({"wkv": "fast"}, r"model.wkv='fast' is not one of auto, reference, cpu, cuda"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        shaken("mamba2", **options)
