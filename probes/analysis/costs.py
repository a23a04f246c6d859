"""What the times mean in pages of text and in money."""

from __future__ import annotations

from dataclasses import dataclass

from core import units
from probes.analysis.crossovers import curve
from probes.analysis.dataset import Series
from probes.analysis.metrics import BY_KEY

PAGE = 700
"""Tokens of a page of 500 English words, a rule of thumb: tokenizers differ by a third or so."""
DOING = {"train": "training", "prefill": "reading", "decode": "writing"}
"""Probes that are counted in pages and money, and what they do, in a sentence."""


@dataclass(frozen=True)
class Price:
    """What the machine costs, as the user says."""

    per_hour: float
    currency: str

    def of_million(self, seconds_per_token: float) -> float:
        """Money for a million tokens, one after the other at this pace."""
        return self.per_hour / 3600 * seconds_per_token * 1e6

    def text(self, amount: float) -> str:
        """`2.50 EUR`; a third digit where cents are too coarse."""
        shown = f"{amount:,.2f}" if amount >= 1 else units.significant(amount)
        return f"{shown} {self.currency}"


def seconds_per_token(series: Series, probe: str) -> dict[int, float]:
    """By context length, batch 1; training counts forward and backward."""
    measure = BY_KEY[probe]
    per_pass = measure.per == "sequence"
    return {
        length: point.value / (length if per_pass else 1)
        for length, point in curve(series, measure).measured.items()
    }


def pages_per_hour(seconds: float) -> float:
    """At so many seconds per token."""
    return 3600 / seconds / PAGE
