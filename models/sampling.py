"""Generating text: read the prompt once, then one token at a time from the state."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from models.contract import Contestant


@torch.no_grad()
def generate(
    model: Contestant,
    prompt: Tensor,
    count: int,
    temperature: float,
    top_k: int,
    generator: torch.Generator | None = None,
) -> Iterator[int]:
    """Yield `count` tokens that continue `prompt` `[T]`, T >= 1.

    The prompt is never read again: each new token costs one single-token step from the carried
    state. Temperature 0 takes the likeliest token; `top_k` 0 samples from all.
    """
    state = model.init_state(1, capacity=len(prompt) + count)
    logits, state = model.next_logits(prompt[None], state)
    for position in range(count):
        token = sample(logits[0], temperature, top_k, generator)
        yield int(token)
        if position + 1 < count:
            every, state = model(token.view(1, 1), state)  # type: ignore[assignment]
            logits = every[:, -1]


def sample(
    logits: Tensor, temperature: float, top_k: int, generator: torch.Generator | None
) -> Tensor:
    """One token from logits `[V]`."""
    if temperature == 0:
        return logits.argmax()
    logits = logits.float() / temperature
    if 0 < top_k < logits.shape[-1]:
        smallest_kept = logits.topk(top_k).values[-1]
        logits = logits.masked_fill(logits < smallest_kept, float("-inf"))
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)
