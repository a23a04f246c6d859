"""Sequences read with shared beginnings, beside each of them read alone."""

from __future__ import annotations

import random

import pytest
import torch

from evaluation.shared_prefixes import PrefixReader, Question
from tests.registered_models import VOCAB, shaken


def questions(rng: random.Random, count: int) -> list[Question]:
    """Sequences with common beginnings, some within others, some equal."""
    begins = [[rng.randrange(VOCAB) for _ in range(rng.randrange(1, 20))] for _ in range(4)]
    asked = []
    for _ in range(count):
        begin = rng.choice(begins)[: rng.randrange(1, 20)]
        tokens = begin + [rng.randrange(3) for _ in range(rng.randrange(4))]
        after = rng.choice([None, rng.randrange(VOCAB)])
        asked.append(Question(tuple(tokens), rng.randrange(1, len(tokens) + 1), after))
    return asked


@pytest.mark.parametrize("name", ["rwkv7", "transformer"])
def test_scores_are_those_of_each_sequence_alone(name: str) -> None:
    model = shaken(name)
    asked = questions(random.Random(0), 60)
    reader, seen = PrefixReader(model), []
    for answer in reader.read(asked, capacity=40):
        question = asked[answer.index]
        seen.append(answer.index)
        tokens = [*question.tokens, *([] if question.after is None else [question.after])]
        with torch.no_grad():
            alone = model(torch.tensor([question.tokens]))[0].log_softmax(-1)[0]
        places = range(question.scored_from, len(tokens))
        expected = [alone[place - 1, tokens[place]].item() for place in places]
        assert answer.log_probabilities == pytest.approx(expected, abs=1e-5)
        likeliest = [alone[place - 1].argmax().item() == tokens[place] for place in places]
        assert answer.greedy == likeliest
        torch.testing.assert_close(answer.logits[0].log_softmax(-1), alone[-1])
    assert sorted(seen) == list(range(60))
    # Every distinct beginning is read exactly once.
    begins = {each.tokens[:end] for each in asked for end in range(1, len(each.tokens) + 1)}
    assert reader.computed == len(begins)
    assert reader.asked == sum(len(each.tokens) for each in asked) > 2 * reader.computed


def test_a_state_handed_out_may_be_continued_from() -> None:
    """The next question still has its own beginning."""
    model = shaken("rwkv4")
    asked = [Question((1, 2, 3), 3), Question((1, 2, 3, 4), 1)]
    reader = PrefixReader(model)
    answers = list(reader.read(asked))
    with torch.no_grad():
        expected = model(torch.tensor([[1, 2, 3, 4]]))[0]
    torch.testing.assert_close(answers[1].logits, expected[:, -1])
    assert reader.computed == 4
