"""Beam search beside what it is at its ends: greedy decoding, and a search of all answers."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from core.errors import UserError
from models.decoding.beam import beam_search
from models.decoding.generate import generate
from models.decoding.settings import Sampling
from models.registry import build
from tests.registered_models import shaken, spec_of

MODELS = [
    "transformer",
    "rwkv7",
    "lstm",
    "seq2seq separator=4",
    "seq2seq separator=4 attention=additive selection=hard",
    "encdec separator=4",
    "pointer separator=4 places=2",
]
V, MARK = 5, 4


def small(name: str) -> Any:
    """A model with a vocabulary of five, the last of which separates."""
    torch.manual_seed(0)
    model: Any = build(spec_of(name, vocab=V))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.2)
    return model.eval()


PROMPT = torch.tensor([1, 0, 3, MARK])


@torch.no_grad()
def log_probability(model: Any, answer: tuple[int, ...]) -> float:
    row = torch.cat((PROMPT, torch.tensor(answer)))[None]
    logs = model(row)[0].double().log_softmax(-1)
    return sum(float(logs[0, len(PROMPT) - 1 + i, token]) for i, token in enumerate(answer))


def every(count: int, end: int | None) -> list[tuple[int, ...]]:
    """All answers of `count` tokens, and the shorter ones that end."""
    found = []
    for size in range(1, count + 1):
        for tokens in itertools.product(range(V), repeat=size):
            if end not in tokens[:-1] and (size == count or tokens[-1] == end):
                found.append(tokens)
    return found


@pytest.mark.parametrize("name", MODELS)
def test_a_width_of_one_takes_the_likeliest_token_each_time(name: str) -> None:
    model = small(name)
    greedy = list(generate(model, PROMPT, 9, Sampling(temperature=0)))
    (found,) = beam_search(model, PROMPT, 9, 1)
    assert list(found.tokens) == greedy
    end = greedy[4]
    (found,) = beam_search(model, PROMPT, 9, 1, end)
    assert list(found.tokens) == greedy[: greedy.index(end) + 1]


@pytest.mark.parametrize("end", [None, 2])
@pytest.mark.parametrize("name", MODELS)
def test_a_full_width_finds_the_likeliest_of_all(name: str, end: int | None) -> None:
    model = small(name)
    all_of_them = sorted(every(3, end), key=lambda answer: -log_probability(model, answer))
    found = beam_search(model, PROMPT, 3, V**3, end)
    assert [one.tokens for one in found] == all_of_them
    for one in found[:3]:
        assert one.log_probability == pytest.approx(log_probability(model, one.tokens), abs=1e-4)


def test_a_narrow_beam_finds_no_more_than_a_full_one() -> None:
    model = small("lstm")
    best = beam_search(model, PROMPT, 4, V**4)[0].log_probability
    for width in (1, 4, 16):
        found = beam_search(model, PROMPT, 4, width)
        assert len(found) == width and found[0].log_probability <= best + 1e-6


def test_what_cannot_be_read_is_refused() -> None:
    short: Any = shaken("gpt", n_positions=8)
    with pytest.raises(UserError, match="reads at most 8 tokens"):
        beam_search(short, torch.arange(6), 9, 2)
    with pytest.raises(UserError, match="token 4, and the prompt has none"):
        beam_search(small("encdec separator=4"), torch.tensor([1, 2]), 3, 2)


def test_the_state_of_a_row_may_be_continued_several_times() -> None:
    """Rows are reordered between tokens: the answer is that of reading each alone."""
    model = small("transformer")
    for one in beam_search(model, PROMPT, 5, 7):
        assert one.log_probability == pytest.approx(log_probability(model, one.tokens), abs=1e-4)
