"""What the figures mean: use of the device, energy, pages of text, and money."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from probes import words
from probes.bootstrap import typical
from probes.collect import Arm, Material
from probes.compare import curve
from probes.measures import BY_KEY
from probes.rows import OK, Row

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
        return f"{amount:,.2f} {self.currency}" if amount >= 1 else f"{amount:.3g} {self.currency}"


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


def utilisation(row: Row, dense: bool = False) -> float | None:
    """MFU: operations done per second over the highest rate measured on this device.

    `None` where no rate was measured, no operations are counted or others disturbed the point.
    `dense` counts every query against every key, the convention of most published figures.
    """
    work = row.flops_dense if dense else row.flops
    if not work or not row.peak_flops or not row.seconds or row.status != OK or row.is_disturbed:
        return None
    return work / typical(row.undisturbed) / row.peak_flops


def joules_per_token(row: Row) -> float | None:
    """Of the whole device; `None` where no counter could tell."""
    if row.energy_joules is None or row.status != OK:
        return None
    tokens = (row.max_batch or row.batch) if row.probe in ("decode", "max_batch") else _tokens(row)
    return row.energy_joules / tokens


def token_percentiles(rows: list[Row]) -> tuple[float, float] | None:
    """p50 and p95 of the single tokens of all repeats and processes left undisturbed, seconds."""
    found = [
        part
        for row in rows
        if row.token_seconds and not row.is_disturbed
        for part, bad in zip(
            _repeats(row), row.disturbed or [False] * len(row.seconds), strict=True
        )
        if not bad
    ]
    if not found:
        return None
    middle, slow = np.percentile(np.concatenate(found), [50, 95])
    return float(middle), float(slow)


def _repeats(row: Row) -> list[np.ndarray]:
    """Seconds of the single tokens of every repeat."""
    return np.array_split(np.array(row.token_seconds), len(row.seconds))


def _tokens(row: Row) -> int:
    return (row.max_batch or row.batch) * row.context_length
