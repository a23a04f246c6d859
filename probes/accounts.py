"""Tables of what follows from the curves: losses, latencies, use of the device, batches, money."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from statistics import fmean
from typing import TYPE_CHECKING

from probes import costs, words
from probes.bootstrap import typical
from probes.collect import Arm
from probes.compare import Finding
from probes.ratios import ABOVE
from probes.rows import OK, Row
from probes.tables import row, swatch, table

if TYPE_CHECKING:
    from probes.report import Report


def losses(report: Report) -> str:
    """Where a recurrent model costs more, over every measure and pair: from the findings alone."""
    compared = [one for one in report.findings if one.kind != "missing"]
    if not compared:
        disturbed = any(one.disturbed for one in report.findings)
        word = "left undisturbed" if disturbed else "measured"
        return f"<p>Nothing was {word} at two context lengths for both kinds of model.</p>"
    lost = [one for one in compared if _dearer(one)]
    rows = []
    for one in lost:
        dearer = _dearer(one)
        worst = max(dearer, key=one.sure)
        everywhere = len(dearer) == len(one.lengths)
        where = "at every length" if everywhere else words.listing(list(map(words.tokens, dearer)))
        pair = f"{words.name(one.recurrent.arm)} / {words.name(one.attention.arm)}"
        cells = [
            f"{len(dearer)} of {len(one.lengths)}",
            pair,
            where,
            words.loss_example(one, worst),
        ]
        rows.append(row(escape(one.measure.title), cells, 1))
    caption = (
        f"In {len(lost)} of {len(compared)} comparison{'' if len(compared) == 1 else 's'} the "
        "recurrent model decidedly costs more at one length or another."
    )
    if lost:
        caption += " The worst is in the last column."
    headings = ["measure", "#lengths lost", "pair", "lost at, tokens", "at worst"]
    return table(caption, headings, rows) if rows else f"<p>{escape(caption)}</p>"


def _dearer(finding: Finding) -> list[int]:
    return finding.on(ABOVE)


def latencies(report: Report) -> str:
    """p50 and p95 of single decoded tokens."""

    def cell(rows: list[Row]) -> list[str]:
        found = costs.token_percentiles(rows)
        return ["", ""] if found is None else [words.seconds(one) for one in found]

    caption = "Of every single token timed, over all repeats and processes left undisturbed."
    return _by_arm(report, ("decode",), ["p50", "p95"], cell, caption)


def efficiency(report: Report) -> str:
    """MFU in both conventions and energy per token of every finished point."""

    def cell(rows: list[Row]) -> list[str]:
        causal = [costs.utilisation(one) for one in rows]
        dense = [costs.utilisation(one, dense=True) for one in rows]
        joules = [costs.joules_per_token(one) for one in rows]
        energy = _mean(joules)
        unknown = "disturbed" if all(one.is_disturbed for one in rows) else "none"
        return [
            _percent(_mean(causal), unknown),
            _percent(_mean(dense), unknown),
            "unavailable" if energy is None else f"{words.significant(energy)} J",
        ]

    methods = sorted({one.energy_method for one in report.material.rows})
    rates = [one.peak_flops for one in report.material.rows if one.peak_flops]
    if rates:
        low, high = (f"{end / 1e9:,.0f}" for end in (min(rates), max(rates)))
        span = low if low == high else f"{low} to {high}"
        known = f"A matrix product reached {span} GFLOP/s here when a sweep began."
    else:
        known = "No peak of this device was measured, so there is no MFU."
    caption = (
        f"{known} MFU is the share of it that the counted operations reach, causal work counted "
        "exactly, and densely (every query against every key). It compares use of the hardware, "
        "not architectures. Energy is that of the whole device, idling included: "
        f"{'; '.join(methods)}."
    )
    headings = ["MFU", "MFU, dense", "energy per token"]
    return _by_arm(report, ("train", "prefill", "ttft", "decode"), headings, cell, caption)


def batches(report: Report) -> str:
    """The largest batch within the memory budget, and the throughput it gives."""

    def cell(rows: list[Row]) -> list[str]:
        most = min(one.max_batch or 0 for one in rows)
        tokens = 1 if rows[0].probe == "max_batch" else rows[0].context_length
        rates = [
            tokens * (one.max_batch or 0) / typical(one.undisturbed)
            for one in rows
            if not one.is_disturbed
        ]
        rate = words.significant(fmean(rates)) if rates else "disturbed"
        return [f"{most:,}", rate, f"{len(rows[0].tried)}"]

    budgets = sorted({one.budget_bytes for one in report.material.rows if one.budget_bytes})
    shown = ", ".join(words.size_bytes(one) for one in budgets)
    caption = (
        f"Sequences that ran together within {shown}: weights, states and the work of a step. The "
        "largest batch that ran, known to 3 % of the budget or the tries in the last column."
    )
    headings = ["largest batch", "tokens/s", "batches tried"]
    return _by_arm(report, ("max_batch", "max_batch_train"), headings, cell, caption)


def money(report: Report) -> str:
    """Pages per hour, and with a price what a million tokens cost."""
    price = report.price
    rows = []
    for probe, doing in costs.DOING.items():
        for arm in report.material.arms:
            for length, seconds in costs.seconds_per_token(arm, probe).items():
                cells = [f"{length:,}", f"{words.significant(costs.pages_per_hour(seconds))}"]
                if price:
                    cells.append(price.text(price.of_million(seconds)))
                rows.append(row(swatch(report, arm), [*cells, doing], len(cells)))
    if not rows:
        return ""
    rate = f" at {price.text(price.per_hour)} an hour" if price else ""
    caption = (
        f"One sequence at a time{rate}. A page is taken as {costs.PAGE} tokens, about 500 words. "
        "Training counts forward and backward."
    )
    headings = ["contestant", "#context, tokens", "#pages per hour",
                *(["#per million tokens"] if price else []), "doing"]  # fmt: skip
    return table(caption, headings, rows)


def _by_arm(
    report: Report,
    probes: tuple[str, ...],
    headings: list[str],
    cells: Callable[[list[Row]], list[str]],
    caption: str,
) -> str:
    """A row for every finished point of batch 1; nothing if no cell says anything."""
    rows = []
    for probe in probes:
        for arm in report.material.arms:
            for length, own in sorted(_finished(arm, probe).items()):
                found = cells(own)
                if any(found):
                    texts = [f"{length:,}", *found, probe.replace("_", " ")]
                    rows.append(row(swatch(report, arm), texts, 1 + len(found)))
    titles = ["contestant", "#context, tokens", *(f"#{one}" for one in headings), "probe"]
    return table(caption, titles, rows) if rows else ""


def _finished(arm: Arm, probe: str) -> dict[int, list[Row]]:
    found: dict[int, list[Row]] = {}
    for one in arm.rows:
        if (one.probe, one.sweep, one.status) == (probe, "batch_1", OK):
            found.setdefault(one.context_length, []).append(one)
    return found


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _percent(value: float | None, unknown: str) -> str:
    return unknown if value is None else f"{100 * value:.1f} %"
