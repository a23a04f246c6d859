"""How far back tokens move the logits: beside closed forms and finite differences."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from core.errors import UserError
from data.encoding import plain
from data.tokenizers import byte_tokenizer
from evaluation import memory, tables
from evaluation.memory import gradients, microscope, perturbations, reach, windows_of
from models.contract import separator_of
from tests.registered_models import NAMES, shaken, some_tokens, steady


def found(model: Any, length: int = 24, count: int = 2) -> dict[str, Any]:
    return microscope(model.eval(), some_tokens(count, length))


@pytest.mark.parametrize(("layers", "window"), [(2, 3), (1, 4)])
def test_the_reach_of_windowed_attention_ends_where_its_windows_do(
    layers: int, window: int
) -> None:
    seen = found(shaken("transformer", n_layer=layers, window=window))
    assert seen["gradient"]["farthest"] == layers * (window - 1) + 1
    assert seen["perturbation"]["tokens"] <= layers * (window - 1) + 1
    assert [layer["gradient"]["farthest"] for layer in seen["layers"]] == [window] * layers


def test_full_attention_and_a_recurrence_reach_the_first_token_that_is_followed() -> None:
    for name in ("transformer", "rwkv7"):
        seen = found(shaken(name))
        assert seen["gradient"]["farthest"] == seen["gradient"]["followed"] == 24 - 24 // 4


def test_the_gradient_is_that_of_finite_differences_through_the_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The norm of one direction's gradient, channel by channel, with the state carried over."""
    monkeypatch.setattr(memory, "DRAWS", 1)
    model = shaken("rwkv7", n_layer=2, n_embd=16, head_size=16, wkv="reference").double().eval()
    tokens, step = some_tokens(1, 12), 1e-5
    (moved, _) = gradients(model, tokens, 3, torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    along = torch.randn((1, model.config.vocab_size), generator=generator).double()
    along -= along.mean()

    def value(position: int, channel: int, change: float) -> float:
        def shift(module: Any, inputs: Any, output: Tensor) -> Tensor:
            output = output.clone()
            if inputs[0].shape[1] == 7 and position < 7:
                output[0, position, channel] += change
            elif inputs[0].shape[1] == 5 and position >= 7:
                output[0, position - 7, channel] += change
            return output

        hook = model.emb.register_forward_hook(shift)
        try:
            with torch.no_grad():
                _, state = model(tokens[:, :7], model.init_state(1))
                logits, _ = model(tokens[:, 7:], state)
        finally:
            hook.remove()
        return float((logits[:, -1] * along).sum())

    for distance in (0, 3, 8):
        slopes = [
            (value(11 - distance, c, step) - value(11 - distance, c, -step)) / (2 * step)
            for c in range(16)
        ]
        norm = torch.tensor(slopes, dtype=torch.float64).norm() / model.config.vocab_size**0.5
        assert float(moved[0, distance]) == pytest.approx(float(norm), rel=1e-5)


def test_of_a_model_that_is_linear_both_measures_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits that are a decayed sum of embeddings: w^d times what the token itself moves."""
    monkeypatch.setattr(memory, "DRAWS", 64)

    class Decayed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = type("Config", (), {"vocab_size": 40})
            self.emb, self.blocks = torch.nn.Embedding(40, 16), torch.nn.ModuleList()
            self.head = torch.nn.Linear(16, 40, bias=False)

        def forward(self, tokens: Tensor) -> tuple[Tensor, None]:
            at = torch.arange(tokens.shape[1])
            weights = (0.8 ** (at[:, None] - at)).tril()
            return self.head(weights @ self.emb(tokens)), None

    torch.manual_seed(0)
    model: Any = Decayed()
    seen = microscope(model, torch.randint(0, 40, (16, 24)))
    rows = seen["rows"]
    for key in ("gradient", "perturbation"):
        assert rows[1][key] / rows[0][key] == pytest.approx(0.8, rel=1e-3)
        assert seen[key]["half"] == 4  # 0.8^3 = 0.512 and 0.8^4 = 0.41
    assert rows[0]["gradient"] == pytest.approx(rows[0]["perturbation"], rel=0.1)


def test_a_reach_in_numbers() -> None:
    curve = torch.tensor([[4.0, 2.0, 1.0, 0.5, 0.03, 0.0], [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    one = reach(curve)
    assert (one.half_low, one.half, one.half_high) == (1, 1, 1)
    assert (one.tokens_low, one.tokens, one.tokens_high) == (1.75, 2.5, 3.25)
    assert (one.farthest, one.followed) == (5, 6)
    silent = reach(torch.zeros(1, 4))
    assert (silent.half, silent.tokens, silent.farthest) == (0, 0, 0)


@pytest.mark.parametrize("name", NAMES)
def test_every_model_can_be_looked_at(name: str) -> None:
    model = steady(shaken(name)).eval()
    tokens = some_tokens(2, 16)
    if separator_of(model) is not None:
        with pytest.raises(UserError, match=r"memory=16: .* reads a source as a whole"):
            microscope(model, tokens)
        return
    seen = microscope(model, tokens)
    assert len(seen["layers"]) == len(model.blocks)
    assert seen["rows"][0]["gradient"] > 0 and seen["rows"][0]["perturbation"] > 0
    json.dumps(seen, allow_nan=False)
    assert "tokens back" in tables.of_memory(seen)
    others = torch.zeros(2, 1, dtype=torch.long)
    assert perturbations(model, tokens, 4, others).shape == (2, 12)


def test_windows_come_from_documents_that_have_enough_tokens() -> None:
    texts = [plain("short"), plain("a" * 20), plain("b" * 9)]
    windows = windows_of(texts, byte_tokenizer(), 8)
    assert windows.shape == (3, 8)  # two of the second, one of the third
    with pytest.raises(UserError, match="memory=30: no document has so many tokens"):
        windows_of(texts, byte_tokenizer(), 30)
    with pytest.raises(UserError, match="windows have 8 tokens or more"):
        microscope(shaken("rwkv4"), some_tokens(1, 7))
