"""SNAIL: its equations token by token, how far its convolutions reach, its state, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from core.errors import UserError
from models.contract import state_bytes
from models.layers.trunk import Stream
from models.snail import SNAILBlock, SNAILConfig
from tests.registered_models import shaken, some_tokens


def block(**settings: Any) -> SNAILBlock:
    torch.manual_seed(0)
    config = SNAILConfig(vocab_size=5, n_layer=1, n_embd=6, n_filter=4, head_size=3, **settings)
    made = SNAILBlock(config).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made


@torch.no_grad()
def test_a_block_follows_the_equations() -> None:
    ours = block(n_dense=3)
    x = torch.randn(1, 13, 6, dtype=torch.float64)
    got, _ = ours(Stream(x), None)
    z: list[Tensor] = list(ours.ln(x)[0])
    for distance, convolution in zip((1, 2, 4), ours.convolutions, strict=True):
        wider = []
        for t, now in enumerate(z):
            told = convolution.now.weight @ now + convolution.now.bias
            if t >= distance:
                told = told + convolution.before.weight @ z[t - distance]
            content, gate = told[:4], told[4:]
            wider.append(torch.cat((now, torch.tanh(content) * torch.sigmoid(gate))))
        z = wider
    q, k, v = (torch.stack([part @ one for one in z]) for part in ours.qkv.weight.split(3))
    for t in range(13):
        shares = torch.softmax(k[: t + 1] @ q[t] / 3**0.5, dim=0)
        read = shares @ v[: t + 1]
        expected = x[0, t] + ours.output.weight @ torch.cat((z[t], read))
        torch.testing.assert_close(got.x[0, t], expected, rtol=1e-9, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("n_dense", [1, 2, 4])
def test_convolutions_alone_see_their_receptive_field_and_no_more(n_dense: int) -> None:
    ours = block(n_dense=n_dense)
    ours.output.weight[:, -3:] = 0  # what attention reads
    x = torch.randn(1, 30, 6, dtype=torch.float64)
    changed = x.clone()
    changed[:, 5] += 1
    differs = (ours(Stream(x), None)[0].x != ours(Stream(changed), None)[0].x).any(-1)[0]
    assert differs.nonzero().flatten().tolist() == list(range(5, 5 + 2**n_dense))


def test_the_state_is_what_they_reach_and_all_keys_and_values() -> None:
    model = shaken("snail", n_dense=3, n_filter=10, head_size=7)
    channels = 64 + 2 * 10
    assert state_bytes(model.init_state(2, capacity=50)["blocks"]) == (
        2 * 2 * 4 * (4 * channels + 50 * 2 * 7)
    )
    _, state = model(some_tokens(2, 9), model.init_state(2, capacity=50))
    assert state["blocks"]["0"]["conv"].shape == (2, 4, channels)
    assert state["blocks"]["0"]["k"].shape == (2, 1, 50, 7)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"n_dense": 0}, "model.n_dense=0 must be from 1 to 16"),
        ({"n_filter": 0}, "model.n_filter=0 must be 1 or more"),
        ({"attention": "fast"}, "model.attention='fast' is not one of auto, "),
    ],
)
def test_what_cannot_be_built_is_said(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError, match=why):
        SNAILConfig(**{"vocab_size": 5, "n_layer": 1, "n_embd": 6, **settings})
