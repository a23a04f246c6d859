"""Tables of what follows from the curves: losses, latencies, use of the device, batches, money."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from core import units
from probes.analysis import costs
from probes.analysis.analysis import Analysis
from probes.analysis.facts import DECODED, FILLED, USED
from probes.analysis.ratios import ABOVE
from probes.report import phrases
from probes.report.markup import Line, Table, of_series


def losses(analysis: Analysis) -> Table:
    """Where a recurrent model costs more, over every measure and pair."""
    compared = [comparison for comparison in analysis.comparisons if comparison.kind != "missing"]
    if not compared:
        disturbed = any(comparison.disturbed for comparison in analysis.comparisons)
        word = "left undisturbed" if disturbed else "measured"
        return Table(f"Nothing was {word} at two context lengths for both kinds of model.")
    lost = [comparison for comparison in compared if comparison.on(ABOVE)]
    caption = (
        f"In {len(lost)} of {units.counted(len(compared), 'comparison')} the "
        "recurrent model decidedly costs more at one length or another."
    )
    if lost:
        caption += " The last column has the length where that is clearest, by the interval."
    headings = ("measure", "#lengths lost", "pair", "lost at, tokens", "clearest")
    lines = []
    for comparison in lost:
        dearer = comparison.on(ABOVE)
        where = units.listing([units.tokens(length) for length in dearer])
        if len(dearer) == len(comparison.lengths):
            where = f"at every length {phrases.compared(comparison)}"
        count = f"{len(dearer)} of {len(comparison.lengths)}"
        example = phrases.loss_example(comparison, max(dearer, key=comparison.sure))
        cells = (count, phrases.pair(comparison), where, example)
        lines.append(Line(comparison.measure.title, cells, 1))
    return Table(caption, headings, tuple(lines))


# ---- tables of them ------------------------------------------------------------------------------


def latencies(analysis: Analysis) -> Table:
    """p50 and p95 of single decoded tokens."""

    def cells(fact: dict[str, Any]) -> list[str]:
        return [units.seconds(fact[name]) for name in ("p50", "p95")]

    caption = (
        "Of every single token timed, over all repeats and processes left undisturbed, taken "
        "together; the chart of slow tokens draws the lower quartile of the repeats' own."
    )
    return _by_series(analysis, analysis.latencies, DECODED, ("p50", "p95"), cells, caption)


def efficiency(analysis: Analysis) -> Table:
    """MFU in both conventions and energy per token of every finished point."""

    def cells(fact: dict[str, Any]) -> list[str]:
        energy = fact["joules_per_token"]
        texts = [
            "none" if share is None else f"{100 * share:.1f} %"
            for share in (fact["mfu"], fact["mfu_dense"])
        ]
        texts.append("unavailable" if energy is None else f"{units.significant(energy)} J")
        return ["disturbed"] * 3 if fact["disturbed"] else texts

    machine = analysis.machine
    if machine["peak_flops"]:
        low, high = (f"{end / 1e9:,.0f}" for end in machine["peak_flops"])
        span = low if low == high else f"{low} to {high}"
        rates = (
            f"A matrix product reached {span} GFLOP/s here when a sweep began. MFU is the share of "
            "it that the counted operations reach at the time the curve has, causal work counted "
            "exactly, and densely (every query against every key). It compares use of the "
            "hardware, not architectures."
        )
    else:
        rates = "No peak of this device was measured, so there is no MFU."
    caption = (
        f"{rates} Energy is that of the whole device, idling included: "
        f"{'; '.join(machine['energy_methods'])}."
    )
    headings = ("MFU", "MFU, dense", "energy per token")
    return _by_series(analysis, analysis.use, USED, headings, cells, caption)


def batches(analysis: Analysis) -> Table:
    """The largest batch within the memory budget, and the throughput it gives."""

    def cells(fact: dict[str, Any]) -> list[str]:
        rate = fact["tokens_per_second"]
        shown = "disturbed" if rate is None else units.significant(rate)
        return [_range(fact["max_batch"]), shown, _range(fact["tried"])]

    budgets = analysis.machine["budget_bytes"]
    shown = ", ".join(units.size_bytes(budget) for budget in budgets)
    caption = (
        f"Sequences that ran together within {shown}: weights, states and the work of a step. The "
        "largest batch that ran, known to 3 % of the budget or the tries in the last column; from "
        "the least to the most of its processes."
    )
    headings = ("largest batch", "tokens/s", "batches tried")
    return _by_series(analysis, analysis.batches, FILLED, headings, cells, caption)


def money(analysis: Analysis) -> Table:
    """Pages per hour, and with a price what a million tokens cost."""
    price, by_series = analysis.price, analysis.costs
    lines = []
    for probe, doing in costs.DOING.items():
        for series in analysis.dataset.all_series:
            for length, cost in by_series[series.label].get(probe, {}).items():
                cells = [f"{int(length):,}", units.significant(cost["pages_per_hour"])]
                if price:
                    cells.append(price.text(cost["per_million_tokens"]))
                lines.append(of_series(series, [*cells, doing], len(cells)))
    if not lines:
        return Table("")
    rate = f" at {price.text(price.per_hour)} an hour" if price else ""
    caption = (
        f"One sequence at a time{rate}. A page is taken as {costs.PAGE} tokens, about 500 words. "
        "Training counts forward and backward."
    )
    headings = ("model", "#context, tokens", "#pages per hour",
                *(["#per million tokens"] if price else []), "doing")  # fmt: skip
    return Table(caption, headings, tuple(lines))


def _by_series(
    analysis: Analysis,
    facts: dict[str, Any],
    probes: tuple[str, ...],
    headings: Sequence[str],
    cells: Callable[[dict[str, Any]], list[str]],
    caption: str,
) -> Table:
    """A line for every finished point of batch 1 in `facts`."""
    lines = []
    for probe in probes:
        for series in analysis.dataset.all_series:
            for length, fact in facts[series.label].get(probe, {}).items():
                texts = [f"{int(length):,}", *cells(fact), probe.replace("_", " ")]
                lines.append(of_series(series, texts, len(texts) - 1))
    titles = ("model", "#context, tokens", *(f"#{heading}" for heading in headings), "probe")
    return Table(caption, titles, tuple(lines)) if lines else Table("")


def _range(counts: Sequence[int]) -> str:
    low, high = f"{min(counts):,}", f"{max(counts):,}"
    return low if low == high else f"{low} to {high}"


def pages_an_hour(analysis: Analysis) -> str:
    """What reading, writing and training mean in pages, and in money if a price was given."""
    price, parts = analysis.price, []
    for probe, doing in costs.DOING.items():
        every = [
            (series, analysis.costs[series.label].get(probe))
            for series in analysis.dataset.all_series
        ]
        priced = [(series, by_length) for series, by_length in every if by_length]
        shared = (
            set.intersection(*(set(map(int, by_length)) for _, by_length in priced))
            if priced
            else set()
        )
        if not shared:
            continue
        length = max(shared)
        texts = []
        for series, by_length in priced:
            entry = by_length[str(length)]
            pages = units.significant(entry["pages_per_hour"], 2)
            cost = f" ({price.text(entry['per_million_tokens'])})" if price else ""
            texts.append(f"{phrases.spoken(series)} {pages}{cost}")
        parts.append(f"{doing} at {units.tokens(length)} tokens of context, {units.listing(texts)}")
    if not parts:
        return ""
    paid = ""
    if price:
        paid = (
            f", in brackets what a million tokens cost at {price.text(price.per_hour)} an hour of "
            "this machine"
        )
    return (
        f"In pages of text an hour, one text at a time (a page is taken as {costs.PAGE} tokens, "
        f"about 500 words){paid}: {'; '.join(parts)}."
    )
