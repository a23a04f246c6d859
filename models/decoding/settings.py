"""How tokens are drawn from logits, as `models.decoding.sampling` does it; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. The defaults draw from the model's own distribution."""

    temperature: float = 1.0
    """0 takes the likeliest token."""
    top_k: int = 0
    """Tokens to draw among, likeliest first; 0: all."""
    top_p: float = 1.0
    """Draw among the fewest likeliest tokens whose probabilities sum to this."""
    presence_penalty: float = 0.0
    """Subtracted from the logit of each token that was generated before."""
    frequency_penalty: float = 0.0
    """Subtracted once for each time that it was."""
    seed: int = 0
