"""Generating text: read the prompt once, then one token at a time from the state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from core.errors import UserError
from models.contract import Model, most_tokens, separator_of
from models.decoding.captured import Decoder
from models.decoding.sampling import choose
from models.decoding.settings import Sampling

RESERVED = 4096
"""New tokens for which caches have room from the start: they grow with those that really come, and
somebody may ask for more than any memory holds."""


@torch.no_grad()
def generate(
    model: Model,
    prompt: Tensor,
    count: int,
    sampling: Sampling,
    generator: torch.Generator | None = None,
) -> Iterator[int]:
    """Yield `count` tokens that continue `prompt` `[T]`, T >= 1.

    The prompt is never read again: each new token costs one single-token step from the carried
    state.
    Raises `UserError` if the model cannot read so many, or its numbers are not finite.
    """
    check_length(model, len(prompt), count)
    check_separator(model, prompt.tolist())
    state = model.init_state(1, capacity=len(prompt) + min(count, RESERVED))
    logits, state = model.next_logits(prompt[None], state)
    counts: Counter[int] = Counter()
    decoder: Decoder | None = None
    for position in range(count):
        check_finite(logits)
        token = choose(logits[0], sampling, generator, counts)
        counts[int(token)] += 1
        yield int(token)
        if position + 1 < count:
            decoder = decoder or Decoder(model, state, count - 1)
            logits = decoder(token.view(1, 1))[:, -1]


def check_length(model: Model, prompt: int, count: int) -> None:
    """Raise `UserError` if the model cannot read a prompt of so many tokens and what follows it."""
    most = most_tokens(model)
    if most is None or prompt + count - 1 <= most:  # the last token is not read
        return
    new = f"ask for at most {most - prompt + 1:,} new tokens" if prompt <= most else "shorten it"
    raise UserError(
        f"the model reads at most {most:,} tokens ({model.length_field}), and {count:,} new ones "
        f"after a prompt of {prompt:,} are more: {new}"
    )


def check_separator(model: Model, prompt: Sequence[int]) -> None:
    """Raise `UserError` if the model writes after a separator, and the prompt has none."""
    mark = separator_of(model)
    if mark is not None and mark not in prompt:
        raise UserError(
            f"{model.title} writes after the separator that ends its source, token {mark}, and the "
            "prompt has none: put it at the end"
        )


def check_finite(logits: Tensor) -> None:
    """Raise `UserError` if one is not finite: any token drawn from them would be nonsense."""
    if logits.sum(dtype=torch.float32).isfinite() or logits.isfinite().all():
        return
    if logits.dtype == torch.float16:
        raise UserError(
            "this model's activations do not fit into float16, which ends at 65,504: use "
            "dtype=bfloat16 or dtype=float32"
        )
    name = str(logits.dtype).removeprefix("torch.")
    raise UserError(
        f"this model computes numbers that are not finite in {name}: its weights are those of a "
        "training that diverged, or are damaged"
    )
