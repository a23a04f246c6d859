"""The words of the first screen beside the answer: three numbers that a person feels, and what was
compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from core import units
from core.interval import Interval
from probes.analysis.analysis import Analysis
from probes.analysis.costs import PAGE
from probes.analysis.dataset import Dataset, Series
from probes.analysis.document import (
    CALCULATED,
    DEARER,
    FAILED,
    KEEPING,
    MEASURED,
    PREDICTED,
    READING,
    WRITING,
    Document,
    Felt,
)
from probes.report import phrases

WORDS = 500
"""Words of a page of `PAGE` tokens."""
SMALL = 1e8
"""Parameters below which a model is a tenth or less of one with billions of them."""
LITTLE = 1e8
"""Tokens of training that are less than a thousandth of what large models read."""


@dataclass(frozen=True)
class Mark:
    """One number of one model."""

    label: str
    """The label of the series."""
    name: str
    text: str
    note: str
    share: float | None
    """Length of its bar, over the longest; None without a number."""


@dataclass(frozen=True)
class Card:
    """One kind of number, of every model."""

    title: str
    what: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Feeling:
    """The cards, for a document of so many pages."""

    title: str
    note: str
    cards: tuple[Card, ...]
    how: tuple[str, ...]
    """How the numbers were had, for the chapter that explains them."""


def feeling(analysis: Analysis) -> Feeling | None:
    """The cards of all models; None where nothing was measured that they are made of."""
    document = analysis.document
    if document is None:
        return None
    first = document.of(READING)
    reading = "time to read the document"
    if first and first[0].measure == "ttft":
        reading = "time to the first token of an answer"
    kinds: dict[str, tuple[str, str, Callable[[float], float], Callable[[float], str]]] = {
        READING: ("Wait before the first word", reading, float, units.seconds),
        WRITING: ("Words a second while writing", "with the document read before", words, _pace),
        KEEPING: ("Memory that the document takes", "state between two tokens", float, _bytes),
    }
    cards = [
        Card(title, what, _marks(document.of(kind), convert, shown))
        for kind, (title, what, convert, shown) in kinds.items()
        if document.of(kind)
    ]
    length = units.tokens(document.length)
    pages = f"{round(document.length / PAGE):,} pages"
    return Feeling(
        f"With a document of {pages}",
        f"{length} tokens, {PAGE} to a page of {WORDS} words; one text at a time.",
        tuple(cards),
        tuple(_how(document)),
    )


def words(seconds: float) -> float:
    """Words a second, at so many seconds for a token."""
    return WORDS / PAGE / seconds


def _pace(per_second: float) -> str:
    return units.significant(per_second, 3)


def _bytes(count: float) -> str:
    return units.device_bytes(count)


def _marks(
    felt: Sequence[Felt], convert: Callable[[float], float], shown: Callable[[float], str]
) -> tuple[Mark, ...]:
    values = {
        one.series.label: convert(one.value.value) for one in felt if one.value.value is not None
    }
    most = max(values.values(), default=0.0)
    return tuple(
        Mark(
            one.series.label,
            phrases.name(one.series),
            *_said(one, convert, shown),
            share=values[one.series.label] / most if one.series.label in values else None,
        )
        for one in felt
    )  # fmt: skip


def _said(
    one: Felt, convert: Callable[[float], float], shown: Callable[[float], str]
) -> tuple[str, str]:
    """The number, and how it was had."""
    if one.how == FAILED:
        return phrases.FAILURES[one.status], ""
    if one.value.value is None:
        if one.reached is None or one.longest is None:
            return "not measured", ""
        return (
            "not known",
            f"{shown(convert(one.reached))} after {units.tokens(one.longest)} tokens",
        )
    text = shown(convert(one.value.value))
    if one.how != PREDICTED:
        return text, one.how
    return f"about {text}", f"predicted, {' to '.join(map(shown, _ends(one.value, convert)))}"


def _ends(value: Interval, convert: Callable[[float], float]) -> list[float]:
    """The lower end and the upper one of what is shown."""
    assert value.ends is not None
    return sorted(map(convert, value.ends))


def _how(document: Document) -> list[str]:
    """How the numbers of the cards were had, for those there are."""
    length = units.tokens(document.length)
    used = {one.how for one in document.felt}
    texts = []
    if MEASURED in used:
        texts.append(f"What is called measured was: a text of {length} tokens was read.")
    if PREDICTED in used:
        longest = [one.longest for one in document.felt if one.how == PREDICTED and one.longest]
        reached = [units.tokens(at) for at in sorted(set(longest))]
        texts.append(
            f"What is called predicted was measured up to {units.listing(reached, 'or')} tokens "
            f"only, and carried on to {length}: with a state of fixed size, reading takes a + bT "
            "and a token always the same; with a memory that grows, reading takes a + bT + cT² and "
            "a token a + bT. That it goes on in this way is assumed. The range beside it holds "
            "95 % of the fits that the scatter of the measurements allows, and up to "
            f"{DEARER:g} times their dearest: a short text cannot show caches that a long one "
            "overflows."
        )
    if CALCULATED in used:
        texts.append(
            "A memory called calculated lies on the line through the sizes that were measured, "
            "which have no noise."
        )
    if used - {MEASURED, CALCULATED}:
        texts.append(
            "To measure it, add the length to the probes' command: "
            f"lengths=[{document.length}] probes=[prefill,decode]."
        )
    return texts


# ---- what was compared ---------------------------------------------------------------------------


def compared(analysis: Analysis) -> tuple[str, ...]:
    """How large the models are and what they were trained on, and what they do not stand for."""
    dataset = analysis.dataset
    shown = [_model(dataset, series) for series in dataset.all_series]
    head = "Compared here:" if len(shown) > 1 else "Measured here:"
    sizes = [series.parameters for series in dataset.all_series if series.parameters]
    text = f"{head} {units.listing(shown)}."
    if not sizes or max(sizes) >= SMALL:
        return (text, "Other sizes, trainings and machines may give another answer.")
    tokens = [
        run["tokens"]
        for series in dataset.all_series
        for run in dataset.trainings_of(series)
        if run.get("tokens")
    ]
    read = ""
    if tokens and max(tokens) < LITTLE:
        read = " and have read more than a thousand times as much text"
    return (
        text,
        "This says little about the models that people talk to: those have billions of parameters"
        f"{read}. Where curves cross, and which model predicts text better, can change with the "
        "size, the training and the machine.",
    )


def _model(dataset: Dataset, series: Series) -> str:
    """`RWKV-4 (5.05 million parameters, trained on 81,920 tokens of stdlib)`."""
    facts = []
    if series.parameters:
        facts.append(f"{units.significant(series.parameters / 1e6)} million parameters")
    runs = dataset.trainings_of(series)
    if tokens := [run["tokens"] for run in runs if run.get("tokens")]:
        facts.append(f"trained on {max(tokens):,} tokens{_corpus(dataset, runs)}")
    inside = f" ({', '.join(facts)})" if facts else ""
    return f"{phrases.spoken(series)}{inside}"


def _corpus(dataset: Dataset, trainings: Sequence[dict[str, object]]) -> str:
    """` of stdlib`, where the configurations of the trainings name the one corpus."""
    folders = {run.get("folder") for run in trainings}
    named = {
        run.config.get("data.corpus")
        for run in dataset.runs
        if run.summary is not None and run.summary.get("folder") in folders
    }
    (name,) = named if len(named) == 1 else (None,)
    return f" of {name}" if isinstance(name, str) and name.isidentifier() else ""
