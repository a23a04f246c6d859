"""Half-lives and eigenvalues, beside closed forms."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from evaluation.spectrum import eigenvalues, half_lives, spectra, transitions
from tests.registered_models import NAMES, shaken, some_tokens

RECURRENT = {"rwkv4", "rwkv5", "rwkv6", "rwkv7", "mamba2", "gated_deltanet", "linear_attention"}


def test_a_decay_w_halves_in_ln_2_over_minus_ln_w_tokens() -> None:
    decays = torch.tensor([0.5, 0.25, 0.9, 1.0, 0.0])
    lives = half_lives(decays.log())
    expected = [0, 0.5, 1, math.log(2) / -math.log(0.9), math.inf]
    assert lives == pytest.approx(expected, rel=1e-6)
    by_token = torch.tensor([0.5, 0.125]).log().view(1, 2, 1, 1)  # half, then an eighth
    assert half_lives(by_token) == pytest.approx([0.5] * 5, rel=1e-6)


def test_the_decays_of_a_model_are_those_of_its_parameters() -> None:
    model = shaken("rwkv4").eval()
    (layer, *_) = spectra(model, some_tokens(1, 8))
    lives = math.log(2) / model.blocks[0].att.time_decay.detach().exp()
    assert layer["half_life"][0] == pytest.approx(float(lives.min()), rel=1e-5)
    assert layer["half_life"][-1] == pytest.approx(float(lives.max()), rel=1e-5)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "hybrid"])
def test_what_each_model_has(name: str) -> None:
    found = spectra(shaken(name).eval(), some_tokens(1, 8))
    assert all(("half_life" in layer) == (name in RECURRENT) for layer in found)
    rotates = name in ("rwkv7", "gated_deltanet")
    assert all(("eigenvalues" in layer) == rotates for layer in found)
    if name == "linear_attention":
        assert found[0]["half_life"] == [None] * 5


def test_layers_of_a_mix_are_told_apart() -> None:
    found = spectra(shaken("hybrid", layers="rwkv7,attention,rwkv4").eval(), some_tokens(1, 8))
    assert [sorted(layer) for layer in found] == [["eigenvalues", "half_life"], [], ["half_life"]]


@pytest.mark.parametrize("rate", [0.25, 1.0, 1.5, 2.0])
def test_a_delta_rule_has_the_eigenvalue_1_minus_its_rate(rate: float) -> None:
    """diag(1) - rate k k^T, k of unit length: 1 - rate along k, and 1 across it."""
    k = torch.nn.functional.normalize(torch.randn(1, 3, 2, 8), dim=-1)
    w = torch.zeros(1, 3, 2, 8)
    values = torch.linalg.eigvals(transitions(w, -k, rate * k)).real.sort().values
    assert torch.allclose(values[..., 0], torch.tensor(1 - rate).double(), atol=1e-6)
    assert torch.allclose(values[..., 1:], torch.ones(1).double(), atol=1e-6)
    said = eigenvalues(w, -k, rate * k)
    assert said["least"] == pytest.approx(1 - rate, abs=1e-6)
    assert said["most"] == pytest.approx(max(1, rate - 1), abs=1e-6)
    assert said["negative"] == (rate > 1) and said["growing"] == 0


@pytest.mark.parametrize(("limit", "least"), [(1.0, 0.0), (2.0, -1.0)])
def test_the_range_of_the_rate_decides_whether_a_sign_can_turn(limit: float, least: float) -> None:
    model: Any = shaken("rwkv7", rate_limit=limit).eval()
    with torch.no_grad():
        for block in model.blocks:
            block.att.w0.fill_(-40.0)  # nothing decays
            block.att.a0.fill_(40.0)  # and as much is removed as the range allows
    for layer in spectra(model, some_tokens(1, 8)):
        assert layer["eigenvalues"]["least"] == pytest.approx(least, abs=1e-4)
        assert layer["eigenvalues"]["negative"] == (limit == 2)


def test_gated_deltanet_has_alpha_times_1_minus_beta() -> None:
    model: Any = shaken("gated_deltanet").eval()
    with torch.no_grad():
        for block in model.blocks:
            block.mixer.decay_rate.weight.zero_()  # beta is a half, alpha the same for all tokens
            block.mixer.A_log.zero_()
            block.mixer.dt_bias.zero_()  # alpha = exp(-softplus(0)) = a half
    for layer in spectra(model, some_tokens(1, 8)):
        assert layer["eigenvalues"]["least"] == pytest.approx(0.25, abs=1e-5)
        assert layer["eigenvalues"]["most"] == pytest.approx(0.5, abs=1e-5)
        assert layer["half_life"] == pytest.approx([1.0] * 5, rel=1e-5)
