"""The Neural Turing Machine: its equations one number at a time, its state, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from core.errors import UserError
from models.contract import state_bytes
from models.ntm import SMALLEST, NTMConfig, TuringMachine
from tests.registered_models import shaken


def machine(**settings: Any) -> TuringMachine:
    torch.manual_seed(0)
    config = NTMConfig(vocab_size=5, n_layer=1, n_embd=6, n_slots=7, slot_size=3, **settings)
    made = TuringMachine(config).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter))
    return made


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max())
    return powers / powers.sum()


def address(
    key: np.ndarray, how: np.ndarray, memory: np.ndarray, before: np.ndarray, reach: int
) -> np.ndarray:
    """Equations 5 to 9 of arXiv 1410.5401, one slot after the other."""
    slots = len(memory)
    beta, gamma = np.log1p(np.exp(how[0])), 1 + np.log1p(np.exp(how[1]))
    gate, shifts = sigmoid(how[2]), softmax(how[3:]) if reach else np.ones(1)
    unit = key / np.sqrt(key @ key)
    alike = [unit @ row / np.sqrt(row @ row + SMALLEST) for row in memory]
    gated = gate * softmax(beta * np.array(alike)) + (1 - gate) * before
    shifted = np.zeros(slots)
    for i in range(slots):
        for move in range(-reach, reach + 1):
            shifted[i] += shifts[move + reach] * gated[(i - move) % slots]
    return shifted**gamma / (shifted**gamma).sum()


@torch.no_grad()
@pytest.mark.parametrize("settings", [{}, {"n_heads": 2, "shift_range": 2}, {"shift_range": 0}])
def test_it_follows_the_equations(settings: dict[str, int]) -> None:
    ours = machine(**settings)
    heads, reach, width, size = ours.config.n_heads, ours.config.shift_range, 6, 3
    x = torch.randn(1, 9, width, dtype=torch.float64)
    got, after, _ = ours(x, ours.init_state(1, None), None)
    assert after is not None
    weight = {name: parameter.numpy() for name, parameter in ours.named_parameters()}
    h = c = np.zeros(width)
    reads, memory = np.zeros(heads * size), np.zeros((7, size))
    weightings = np.eye(7)[np.zeros(2 * heads, dtype=int)]
    for t in range(9):
        gates = weight["input.weight"] @ x[0, t].numpy() + weight["input.bias"]
        gates = gates + weight["recurrent.weight"] @ np.concatenate((h, reads))
        enter, forget, leave, new = np.split(gates, 4)
        c = sigmoid(forget) * c + sigmoid(enter) * np.tanh(new)
        h = sigmoid(leave) * np.tanh(c)
        told = weight["heads.weight"] @ h + weight["heads.bias"]
        keys, how, change = np.split(told, np.cumsum(ours.parts)[:2])
        keys, how, change = (part.reshape(2 * heads, -1) for part in (keys, how, change))
        weightings = np.array([
            address(keys[i], how[i], memory, weightings[i], reach) for i in range(2 * heads)
        ])  # fmt: skip
        reads = (weightings[:heads] @ memory).flatten()
        writing, erase, add = weightings[heads:], sigmoid(change[:heads]), np.tanh(change[heads:])
        for i in range(7):
            kept = np.prod([1 - writing[j, i] * erase[j] for j in range(heads)], axis=0)
            memory[i] = memory[i] * kept + sum(writing[j, i] * add[j] for j in range(heads))
        expected = h + weight["output.weight"] @ reads
        np.testing.assert_allclose(got[0, t].numpy(), expected, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(after["memory"][0].numpy(), memory, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(after["weightings"][0].sum(-1).numpy(), 1)


@torch.no_grad()
def test_what_a_key_finds_does_not_depend_on_its_length() -> None:
    ours = machine()
    keys, how = torch.randn(1, 2, 3, dtype=torch.float64), torch.randn(1, 2, 6, dtype=torch.float64)
    memory, before = torch.randn(1, 7, 3, dtype=torch.float64), torch.rand(1, 2, 7).double()
    found = ours._address(keys, how, memory, before)
    torch.testing.assert_close(ours._address(50 * keys, how, memory, before), found)


@torch.no_grad()
@pytest.mark.parametrize(("move", "slot"), [(0, 6), (1, 0), (2, 1)])
def test_a_head_moves_back_stays_and_moves_forward(move: int, slot: int) -> None:
    """Round the circle, if its gate is shut and its shift is sure."""
    how = torch.full((1, 1, 6), -60.0)
    how[..., 1], how[..., 3 + move] = 60, 60  # gamma sharpens, the gate stays shut
    at_first = F.one_hot(torch.tensor([[0]]), 7).float()
    after = machine().float()._address(torch.ones(1, 1, 3), how, torch.zeros(1, 7, 3), at_first)
    assert after.argmax().item() == slot and after.max() > 0.999


def test_the_state_has_one_size_and_its_closed_form() -> None:
    model = shaken("ntm", n_slots=9, slot_size=5, n_heads=2)
    assert state_bytes(model.init_state(3)) == 2 * 3 * 4 * (2 * 64 + 2 * 5 + 4 * 9 + 9 * 5)
    _, state = model(torch.zeros(3, 4, dtype=torch.long), model.init_state(3))
    assert state_bytes(state) == state_bytes(model.init_state(3))


def test_gradients_of_an_empty_memory_are_finite() -> None:
    model = shaken("ntm")
    tokens = torch.zeros(2, 30, dtype=torch.long)
    model.loss(tokens, tokens + 1)[0].backward()
    assert all(bool(torch.isfinite(one.grad).all()) for one in model.parameters())


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"n_heads": 0}, "model.n_heads=0 must be 1 or more"),
        ({"shift_range": 4, "n_slots": 8}, "model.shift_range=4 must be 0 or more, and less"),
        ({"shift_range": -1}, "model.shift_range=-1 must be 0 or more"),
    ],
)
def test_what_cannot_be_built_is_said(settings: dict[str, int], why: str) -> None:
    with pytest.raises(UserError, match=why):
        NTMConfig(vocab_size=5, n_layer=1, n_embd=6, **settings)
