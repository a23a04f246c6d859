"""What the times mean in pages of text and in money."""

from __future__ import annotations

from dataclasses import dataclass

from probes import words
from probes.collect import Arm, Material
from probes.compare import curve
from probes.measures import BY_KEY

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
        shown = f"{amount:,.2f}" if amount >= 1 else words.significant(amount)
        return f"{shown} {self.currency}"


def seconds_per_token(arm: Arm, probe: str) -> dict[int, float]:
    """By context length, batch 1; training counts forward and backward."""
    measure = BY_KEY[probe]
    per_pass = measure.per == "sequence"
    return {
        length: point.value / (length if per_pass else 1)
        for length, point in curve(arm, measure).measured.items()
    }


def pages_per_hour(seconds: float) -> float:
    """At so many seconds per token."""
    return 3600 / seconds / PAGE


def in_words(material: Material, price: Price | None) -> str:
    """What reading, writing and training mean in pages, and in money if a price was given."""
    parts = []
    for probe, doing in DOING.items():
        every = [(arm, seconds_per_token(arm, probe)) for arm in material.arms]
        found = [(arm, own) for arm, own in every if own]
        shared = set.intersection(*(set(own) for _, own in found)) if found else set()
        if not shared:
            continue
        length = max(shared)
        texts = []
        for arm, own in found:
            pages = words.significant(pages_per_hour(own[length]), 2)
            cost = f" ({price.text(price.of_million(own[length]))})" if price else ""
            texts.append(f"{words.spoken(arm)} {pages}{cost}")
        parts.append(f"{doing} at {words.tokens(length)} tokens of context, {words.listing(texts)}")
    if not parts:
        return ""
    paid = ""
    if price:
        paid = (
            f", in brackets what a million tokens cost at {price.text(price.per_hour)} an hour of "
            "this machine"
        )
    return (
        f"In pages of text an hour, one text at a time (a page is taken as {PAGE} tokens, "
        f"about 500 words){paid}: {'; '.join(parts)}."
    )
