"""Which tokens may be drawn, and that a seed and a place decide which one is."""

from __future__ import annotations

import pytest
import torch

from models.decoding.sampling import choose, generator_at
from models.decoding.settings import Sampling

LOGITS = torch.tensor([0.0, 3.0, 2.0, 2.5])


def drawn(sampling: Sampling, logits: torch.Tensor = LOGITS, count: int = 200) -> list[int]:
    return [int(choose(logits, sampling, generator_at(0, place))) for place in range(count)]


def test_only_the_likeliest_are_drawn() -> None:
    assert set(drawn(Sampling())) == {0, 1, 2, 3}
    assert set(drawn(Sampling(top_k=2))) == {1, 3}
    assert set(drawn(Sampling(temperature=0))) == {1}
    assert set(drawn(Sampling(temperature=1e-40))) == {1}  # as good as 0


@pytest.mark.parametrize(
    ("top_p", "kept"), [(1e-6, {1}), (0.49, {1}), (0.51, {1, 3}), (0.79, {1, 3}), (0.81, {1, 2, 3})]
)
def test_a_nucleus_is_the_fewest_tokens_of_that_probability(top_p: float, kept: set[int]) -> None:
    # Probabilities 0.025, 0.493, 0.181, 0.299.
    assert set(drawn(Sampling(top_p=top_p))) == kept


def test_a_nucleus_of_equals_is_no_larger_than_asked() -> None:
    logits = torch.tensor([5.0, 0.0, 0.0, -50.0, 0.0])
    logits[0] = 0.0
    assert len(set(drawn(Sampling(top_p=0.5), logits))) == 2


def test_penalties_count_what_was_generated() -> None:
    greedy = Sampling(temperature=0, presence_penalty=0.6)
    assert int(choose(LOGITS, greedy, counts={1: 1})) == 3
    assert int(choose(LOGITS, greedy, counts={1: 9, 0: 2})) == 3
    often = Sampling(temperature=0, frequency_penalty=0.2)
    assert int(choose(LOGITS, often, counts={1: 2})) == 1
    assert int(choose(LOGITS, often, counts={1: 3})) == 3
    assert torch.equal(LOGITS, torch.tensor([0.0, 3.0, 2.0, 2.5]))  # they are the model's


def test_the_seed_and_the_place_decide() -> None:
    assert drawn(Sampling()) == drawn(Sampling())
    other = [int(choose(LOGITS, Sampling(), generator_at(1, place))) for place in range(200)]
    assert drawn(Sampling()) != other
    assert generator_at(0, 1).initial_seed() != generator_at(1, 0).initial_seed()
    shares = torch.bincount(torch.tensor(drawn(Sampling(), count=4000))) / 4000
    assert torch.allclose(shares, LOGITS.softmax(-1), atol=0.03)
