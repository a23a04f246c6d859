"""Hard-max attention: its equations, its cache, how it is trained, and what it refuses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from core.errors import UserError
from models.contract import named_tensors, state_bytes
from models.decoding.generate import generate
from models.decoding.settings import Sampling
from models.hull import HullAttention, shortfall
from models.ops.hull import operator
from models.registry import build
from tests.registered_models import shaken, some_tokens, spec_of

HEADS = 32


def heads_of(mixer: HullAttention, x: Tensor) -> list[Tensor]:
    """q, k and v `[B, H, T, 2]`, written out."""
    mixed, _ = mixer.conv(mixer.qkv(x), None)
    return [part.unflatten(-1, (HEADS, 2)).transpose(1, 2) for part in mixed.split(64, dim=-1)]


def some_input(length: int = 75) -> Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.randn(2, length, 64, generator=g, dtype=torch.float64)


@torch.no_grad()
@pytest.mark.parametrize("plane", [False, True])
def test_a_head_returns_the_value_at_its_largest_score(plane: bool) -> None:
    mixer = shaken("hull", plane=plane).double().blocks[0].mixer
    x = some_input()
    q, k, v = heads_of(mixer, x)
    keys = k if plane else F.normalize(k, dim=-1)
    scores = (q @ keys.transpose(-1, -2)).masked_fill(
        ~torch.ones(75, 75, dtype=torch.bool).tril(), -math.inf
    )
    chosen = scores.argmax(-1)[..., None].expand(-1, -1, -1, 2)
    expected = mixer.output(v.gather(2, chosen).transpose(1, 2).flatten(2))
    torch.testing.assert_close(mixer(x, None, None)[0], expected, rtol=1e-5, atol=1e-6)


def test_a_training_step_reads_softly_at_the_temperature_of_the_moment() -> None:
    model = shaken("hull", temperature=0.5, final_temperature=0.1).double()
    x = some_input()
    mixer = model.blocks[0].mixer
    q, k, v = heads_of(mixer, x)
    mask = ~torch.ones(75, 75, dtype=torch.bool).tril()
    for share, temperature in ((0.0, 0.5), (0.5, math.sqrt(0.05)), (1.0, 0.1)):
        model.anneal(share)
        scores = q @ F.normalize(k, dim=-1).transpose(-1, -2) / temperature
        y = scores.masked_fill(mask, -math.inf).softmax(-1) @ v
        expected = mixer.output(y.transpose(1, 2).flatten(2))
        torch.testing.assert_close(mixer(x, None, None)[0], expected, rtol=1e-9, atol=1e-9)


def test_cold_enough_a_softmax_is_the_hard_choice() -> None:
    mixer = shaken("hull", temperature=1.0, final_temperature=1e-10).double().blocks[0].mixer
    x = some_input()
    mixer.anneal(1.0)
    soft = mixer(x, None, None)[0]
    with torch.no_grad():
        hard = mixer(x, None, None)[0]
    torch.testing.assert_close(soft, hard, rtol=1e-4, atol=1e-4)


def test_straight_through_reads_hard_and_has_the_gradient_of_the_softmax() -> None:
    gradients, outputs = [], []
    for selection in ("soft", "straight_through"):
        mixer = shaken("hull", selection=selection).double().blocks[0].mixer
        y, _, _ = mixer(some_input(), None, None)
        y.sum().backward()
        gradients.append(mixer.qkv.weight.grad)
        outputs.append(y)
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)
    with torch.no_grad():
        hard, _, _ = mixer(some_input(), None, None)
    torch.testing.assert_close(outputs[1], hard, rtol=1e-9, atol=1e-9)
    assert (outputs[0] - hard).abs().max() > 0.1


def test_the_margin_is_the_mean_shortfall_of_the_gap() -> None:
    g = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 2, 20, 2, generator=g)
    missing = []
    for head in range(2):
        for t in range(1, 20):
            scores = sorted(
                (float(F.normalize(q[0, head, t], dim=0) @ k[0, head, j]) for j in range(t + 1)),
                reverse=True,
            )
            missing.append(max(0.0, 0.5 - (scores[0] - scores[1])))
    expected = torch.tensor(sum(missing) / len(missing))
    torch.testing.assert_close(shortfall(q, k, 0.5), expected)
    assert float(shortfall(q[:, :, :1], k[:, :, :1], 0.5)) == 0
    model = shaken("hull", margin=0.5, margin_weight=2.0)
    tokens = some_tokens(2, 30)
    objective, loss, _ = model.objective(tokens, tokens)
    layers = [float(block.mixer.shortfall.detach()) for block in model.blocks]
    assert float((objective - loss).detach()) == pytest.approx(2 * sum(layers) / 2, rel=1e-4)
    torch.testing.assert_close(loss, shaken("hull").loss(tokens, tokens)[0].detach())


@torch.no_grad()
def test_so_many_nearest_angles_that_all_are_is_softmax_attention() -> None:
    mixer = shaken("hull", top_k=1000, final_temperature=0.2).double().blocks[0].mixer
    x = some_input()
    q, k, v = heads_of(mixer, x)
    scores = q @ F.normalize(k, dim=-1).transpose(-1, -2) / 0.2
    scores = scores.masked_fill(~torch.ones(75, 75, dtype=torch.bool).tril(), -math.inf)
    expected = mixer.output((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(mixer(x, None, None)[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["hull", "hull plane=true", "hybrid layers=rwkv7,hull"])
def test_decoded_tokens_are_those_of_a_search_of_all_keys(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = some_tokens(1, 50)[0]
    found: list[list[int]] = []
    for backend in ("cpu", "reference"):
        monkeypatch.setattr(operator, "backend", lambda device, backend=backend: backend)
        model = shaken(name).eval()
        found.append([*generate(model, prompt, 60, Sampling(temperature=0.0))])
    assert found[0] == found[1] and len(set(found[0])) > 3


def test_its_state_grows_with_the_context() -> None:
    model = shaken("hull").eval()
    assert not model.recurrent and model.title == "hard-max attention"
    with torch.no_grad():
        sizes = []
        for length in (64, 640):
            _, state = model(some_tokens(3, length), model.init_state(3, capacity=length))
            sizes.append(state_bytes(state))
    assert sizes[0] < sizes[1] < 10 * sizes[0]
    leaves = dict(named_tensors(state))
    assert leaves["blocks.0.cache.sums"].shape == (3, HEADS, 3 + 640, 2)
    assert int(leaves["blocks.0.cache.tokens"]) == 640


def test_in_a_stack_it_has_options_of_its_own() -> None:
    model: Any = build(spec_of("hybrid", layers="rwkv7*3,hull(plane=true)"))
    assert not model.recurrent and not model.attends and model.chooses
    assert model.blocks[3].mixer.config.plane
    model.anneal(1.0)
    assert model.blocks[3].mixer.temperature == pytest.approx(0.02)
    with pytest.raises(UserError, match="sets margin, which is no field of that block alone"):
        build(spec_of("hybrid", layers="rwkv7,hull(margin=0.1)"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_embd": 63}, "model.n_embd=63 must be even"),
        ({"n_conv": 0}, "model.n_conv=0 must be 1 or more"),
        ({"selection": "hard"}, "model.selection='hard' is not one of soft, straight_through"),
        ({"temperature": 0.01}, "model.temperature=0.01 must be at least model.final_temperature"),
        ({"final_temperature": 0.0}, "and that above 0"),
        ({"margin": -1.0}, "must be 0 or more"),
        ({"top_k": 0}, "model.top_k=0 must be 1 or more"),
        ({"top_k": 2, "plane": True}, "needs keys of length 1: model.plane=false"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(spec_of("hull", **options))
