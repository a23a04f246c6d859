"""Tables of what follows from the curves: losses, latencies, use of the device, batches, money."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from probes import costs, rates, words
from probes.collect import Arm
from probes.compare import Finding, rows_at
from probes.markup import Line, Table, of_arm
from probes.ratios import ABOVE
from probes.rows import OK, Row

if TYPE_CHECKING:
    from probes.report import Report

DECODED = ("decode",)
USED = ("train", "prefill", "ttft", "decode")
FILLED = ("max_batch", "max_batch_train")


def losses(report: Report) -> Table:
    """Where a recurrent model costs more, over every measure and pair: from the findings alone."""
    compared = [one for one in report.findings if one.kind != "missing"]
    if not compared:
        disturbed = any(one.disturbed for one in report.findings)
        word = "left undisturbed" if disturbed else "measured"
        return Table(f"Nothing was {word} at two context lengths for both kinds of model.")
    lost = [one for one in compared if one.on(ABOVE)]
    caption = (
        f"In {len(lost)} of {len(compared)} comparison{'' if len(compared) == 1 else 's'} the "
        "recurrent model decidedly costs more at one length or another."
    )
    if lost:
        caption += " The last column has the length where that is clearest, by the interval."
    headings = ("measure", "#lengths lost", "pair", "lost at, tokens", "clearest")
    return Table(caption, headings, tuple(_lost(one) for one in lost))


def _lost(one: Finding) -> Line:
    dearer = one.on(ABOVE)
    where = words.listing([words.tokens(length) for length in dearer])
    if len(dearer) == len(one.lengths):
        where = f"at every length {words.compared(one)}"
    pair = f"{words.name(one.recurrent.arm)} / {words.name(one.attention.arm)}"
    example = words.loss_example(one, max(dearer, key=one.sure))
    cells = (f"{len(dearer)} of {len(one.lengths)}", pair, where, example)
    return Line(one.measure.title, cells, 1)


# ---- figures of single points, for crossover.json and the tables ---------------------------------


def finished(arm: Arm, probe: str) -> dict[int, list[Row]]:
    """By length, the rows of every point of batch 1 that finished, one for each process."""
    points = rows_at(arm.rows, probe, "batch_1")
    every = {length: [own[n] for n in sorted(own)] for length, own in points.items()}
    return {
        length: own for length, own in every.items() if all(row.status == OK for row in own)
    }  # fmt: skip


def latency_of(rows: Sequence[Row]) -> dict[str, float] | None:
    """p50 and p95 of single tokens, seconds."""
    found = rates.token_percentiles(rows)
    return None if found is None else {"p50": found[0], "p95": found[1]}


def use_of(rows: Sequence[Row]) -> dict[str, Any]:
    """MFU in both conventions, joules per token; null where not known."""
    return {
        "mfu": rates.utilisation(rows),
        "mfu_dense": rates.utilisation(rows, dense=True),
        "joules_per_token": rates.joules_per_token(rows),
        "disturbed": not rates.counted(rows),
    }


def batch_of(rows: Sequence[Row]) -> dict[str, Any]:
    """The largest batches and the tries of each process, and the tokens a second."""
    return {
        "max_batch": [one.max_batch or 0 for one in rows],
        "tried": [len(one.tried) for one in rows],
        "tokens_per_second": rates.tokens_per_second(rows),
    }


def figures(
    arms: Sequence[Arm], probes: tuple[str, ...], of: Callable[[Sequence[Row]], Any]
) -> dict[str, Any]:
    """By contestant, probe and length, what is known of every finished point of batch 1."""
    found: dict[str, Any] = {}
    for arm in arms:
        by_probe = {}
        for probe in probes:
            known = {str(at): of(own) for at, own in finished(arm, probe).items()}
            by_probe[probe] = {at: one for at, one in known.items() if one is not None}
        found[arm.label] = {probe: own for probe, own in by_probe.items() if own}
    return found


# ---- tables of them ------------------------------------------------------------------------------


def latencies(report: Report) -> Table:
    """p50 and p95 of single decoded tokens."""

    def cells(one: dict[str, Any]) -> list[str]:
        return [words.seconds(one[name]) for name in ("p50", "p95")]

    caption = (
        "Of every single token timed, over all repeats and processes left undisturbed, taken "
        "together; the chart of slow tokens draws the lower quartile of the repeats' own."
    )
    return _by_arm(report, "latencies", DECODED, ("p50", "p95"), cells, caption)


def efficiency(report: Report) -> Table:
    """MFU in both conventions and energy per token of every finished point."""

    def cells(one: dict[str, Any]) -> list[str]:
        energy = one["joules_per_token"]
        found = [
            "none" if share is None else f"{100 * share:.1f} %"
            for share in (one["mfu"], one["mfu_dense"])
        ]
        found.append("unavailable" if energy is None else f"{words.significant(energy)} J")
        return ["disturbed"] * 3 if one["disturbed"] else found

    machine = report.summary["machine"]
    if machine["peak_flops"]:
        low, high = (f"{end / 1e9:,.0f}" for end in machine["peak_flops"])
        span = low if low == high else f"{low} to {high}"
        known = (
            f"A matrix product reached {span} GFLOP/s here when a sweep began. MFU is the share of "
            "it that the counted operations reach at the time the curve has, causal work counted "
            "exactly, and densely (every query against every key). It compares use of the "
            "hardware, not architectures."
        )
    else:
        known = "No peak of this device was measured, so there is no MFU."
    caption = (
        f"{known} Energy is that of the whole device, idling included: "
        f"{'; '.join(machine['energy_methods'])}."
    )
    headings = ("MFU", "MFU, dense", "energy per token")
    return _by_arm(report, "use", USED, headings, cells, caption)


def batches(report: Report) -> Table:
    """The largest batch within the memory budget, and the throughput it gives."""

    def cells(one: dict[str, Any]) -> list[str]:
        rate = one["tokens_per_second"]
        shown = "disturbed" if rate is None else words.significant(rate)
        return [_range(one["max_batch"]), shown, _range(one["tried"])]

    budgets = report.summary["machine"]["budget_bytes"]
    shown = ", ".join(words.size_bytes(one) for one in budgets)
    caption = (
        f"Sequences that ran together within {shown}: weights, states and the work of a step. The "
        "largest batch that ran, known to 3 % of the budget or the tries in the last column; from "
        "the least to the most of its processes."
    )
    headings = ("largest batch", "tokens/s", "batches tried")
    return _by_arm(report, "batches", FILLED, headings, cells, caption)


def money(report: Report) -> Table:
    """Pages per hour, and with a price what a million tokens cost."""
    price, told = report.price, report.summary["costs"]
    lines = []
    for probe, doing in costs.DOING.items():
        for arm in report.material.arms:
            for length, one in told[arm.label].get(probe, {}).items():
                cells = [f"{int(length):,}", words.significant(one["pages_per_hour"])]
                if price:
                    cells.append(price.text(one["per_million_tokens"]))
                lines.append(of_arm(arm, [*cells, doing], len(cells)))
    if not lines:
        return Table("")
    rate = f" at {price.text(price.per_hour)} an hour" if price else ""
    caption = (
        f"One sequence at a time{rate}. A page is taken as {costs.PAGE} tokens, about 500 words. "
        "Training counts forward and backward."
    )
    headings = ("contestant", "#context, tokens", "#pages per hour",
                *(["#per million tokens"] if price else []), "doing")  # fmt: skip
    return Table(caption, headings, tuple(lines))


def _by_arm(
    report: Report,
    name: str,
    probes: tuple[str, ...],
    headings: Sequence[str],
    cells: Callable[[dict[str, Any]], list[str]],
    caption: str,
) -> Table:
    """A line for every finished point of batch 1 in that part of `crossover.json`."""
    told = report.summary[name]
    lines = []
    for probe in probes:
        for arm in report.material.arms:
            for length, one in told[arm.label].get(probe, {}).items():
                texts = [f"{int(length):,}", *cells(one), probe.replace("_", " ")]
                lines.append(of_arm(arm, texts, len(texts) - 1))
    titles = ("contestant", "#context, tokens", *(f"#{one}" for one in headings), "probe")
    return Table(caption, titles, tuple(lines)) if lines else Table("")


def _range(counts: Sequence[int]) -> str:
    low, high = f"{min(counts):,}", f"{max(counts):,}"
    return low if low == high else f"{low} to {high}"
