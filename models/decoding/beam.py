"""Beam search: the likeliest answers that are found by keeping the best few beginnings.

At each token every beginning that is kept is continued by every token, and the `width` likeliest of
all these are kept; one that ends leaves the beam as an answer. With a width of 1 that is taking the
likeliest token each time, and with a width of V^n, n the length, it finds the likeliest of all.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.contract import Model, State, map_state
from models.decoding.generate import check_finite, check_length, check_separator


@dataclass(frozen=True)
class Answer:
    """Tokens after a prompt, the one that ends it included."""

    tokens: tuple[int, ...]
    log_probability: float
    """The sum over all of its tokens, nats."""


@torch.no_grad()
def beam_search(
    model: Model, prompt: Tensor, count: int, width: int, end: int | None = None
) -> list[Answer]:
    """At most `width` answers to `prompt` `[T]`, T >= 1, the likeliest first.

    An answer has `count` tokens, or fewer and then `end`. Raises `UserError` if the model cannot
    read so many, or its numbers are not finite.
    """
    check_length(model, len(prompt), count)
    check_separator(model, prompt.tolist())
    state = model.init_state(1, capacity=len(prompt) + count)
    logits, state = model.next_logits(prompt[None], state)
    kept = [Answer((), 0.0)]
    answers: list[Answer] = []
    for position in range(count):
        check_finite(logits)
        logs = logits.double().log_softmax(-1)  # [kept, V]
        logs += torch.tensor([[one.log_probability] for one in kept], device=logs.device)
        best = logs.flatten().topk(min(width, logs.numel()))
        rows, going = [], []
        for place, log in zip(best.indices.tolist(), best.values.tolist(), strict=True):
            row, token = divmod(place, logs.shape[1])
            longer = Answer((*kept[row].tokens, token), log)
            if token == end or position + 1 == count:
                answers.append(longer)
            else:
                going.append(longer)
                rows.append(row)
        answers = sorted(answers, key=lambda one: -one.log_probability)[:width]
        full = len(answers) == width
        if not going or (full and answers[-1].log_probability >= going[0].log_probability):
            break  # what goes on can only become less likely
        kept = going
        state = _of_rows(state, torch.tensor(rows, device=prompt.device))
        last = torch.tensor([[one.tokens[-1]] for one in kept], device=prompt.device)
        logits, state = model.next_logits(last, state)
    return answers


def _of_rows(state: State, rows: Tensor) -> State:
    """The state of these rows, which may come several times or not at all."""
    return map_state(state, lambda leaf: leaf[rows] if leaf.dim() else leaf)
