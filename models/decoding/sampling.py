"""Choosing the next token from its logits."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from models.decoding.settings import Sampling

_MIX = 0x9E3779B97F4A7C15  # of splitmix64
_MASK = (1 << 64) - 1


def choose(
    logits: Tensor,
    sampling: Sampling,
    generator: torch.Generator | None = None,
    counts: Mapping[int, int] | None = None,
) -> Tensor:
    """One token from logits `[V]`, given how often each was generated before.

    Nucleus sampling as in Holtzman et al. 2020, equation 3.
    """
    if counts and (sampling.presence_penalty or sampling.frequency_penalty):
        logits = logits.float().clone()
        places = torch.tensor([*counts], device=logits.device)
        often = torch.tensor([*counts.values()], device=logits.device, dtype=logits.dtype)
        logits[places] -= sampling.presence_penalty + sampling.frequency_penalty * often
    likeliest = logits.argmax()
    if sampling.temperature == 0:
        return likeliest
    logits = logits.float() / sampling.temperature
    if logits.isinf().any():  # the temperature is as good as 0
        return likeliest
    if 0 < sampling.top_k < logits.shape[-1]:
        smallest_kept = logits.topk(sampling.top_k).values[-1]
        logits = logits.masked_fill(logits < smallest_kept, float("-inf"))
    if sampling.top_p < 1:
        ordered = logits.softmax(-1).sort(descending=True)
        before = ordered.values.cumsum(-1) - ordered.values  # of those that are likelier
        left_out = ordered.indices[1:][before[1:] >= sampling.top_p]  # the likeliest always stays
        logits = logits.index_fill(-1, left_out, float("-inf"))
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)


def generator_at(seed: int, position: int) -> torch.Generator:
    """The random numbers for the token at `position` of an answer.

    They depend on nothing else, so an answer that is begun again elsewhere goes on the same.
    """
    value = (seed * _MIX + position + 1) & _MASK  # splitmix64, Steele et al. 2014
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = ((value ^ (value >> shift)) * factor) & _MASK
    return torch.Generator().manual_seed((value ^ (value >> 31)) >> 1)
