"""Summaries of trainings whose losses follow a known law of parameters and tokens."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.probes.synthetic import make_summary

SIZES = (2.5e5, 6e5, 1.2e6, 2.4e6)
BUDGETS = (2.6e5, 5.2e5, 1.05e6)


def loss(parameters: Any, tokens: Any) -> Any:
    """Nats per token."""
    return 1.4 * (parameters / 1e6) ** -0.15 + 2.4 * (tokens / 1e6) ** -0.25


def training(
    model: str, parameters: float, tokens: float, value: float, **changes: Any
) -> dict[str, Any]:
    """The summary of one training; forward, a parameter costs two operations a token."""
    facts = {
        "name": f"{model}-{parameters:.0f}-{tokens:.0f}",
        "size": f"{parameters / 1e6:g}m",
        "config": {},
        "parameters": int(parameters),
        "tokens": int(tokens),
        "forward_flops": int(2 * parameters * tokens),
        "order_hash": f"order of {tokens:.0f}",
    }
    return make_summary(model, value, **(facts | changes))


def grid(model: str, factor: float, noise: float = 0.0, seed: int = 0) -> list[dict[str, Any]]:
    """Every size on every budget."""
    rng = np.random.default_rng(seed)
    return [
        training(model, n, d, float(factor * loss(n, d) * np.exp(rng.normal(0, noise))))
        for n in SIZES
        for d in BUDGETS
    ]
