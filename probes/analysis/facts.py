"""What is known of a dataset beside its curves: machine, models, failures, single points, costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean
from typing import Any

from core import units
from probes.analysis import costs, derived_metrics
from probes.analysis.costs import Price
from probes.analysis.crossovers import rows_at
from probes.analysis.dataset import Dataset, Series
from probes.rows import OK, Row

DECODED = ("decode",)


USED = ("train", "prefill", "ttft", "decode")


FILLED = ("max_batch", "max_batch_train")


def model_facts(dataset: Dataset, series: Series) -> dict[str, Any]:
    """What one series is and, over its finished trainings, how well it learned."""
    facts: dict[str, Any] = {
        "model": series.model,
        "size": series.size,
        "parameters": series.parameters,
        "backends": series.backends(),
        "config": series.rows[0].config if series.rows else {},
        "weights": series.rows[0].weights if series.rows else {},
    }
    if runs := dataset.trainings_of(series):
        # A training of very few steps has no speed.
        speeds = [speed for run in runs if (speed := run.get("tokens_per_second")) is not None]
        # Trainings on synthetic tasks have no text.
        bits = [b for run in runs if (b := run["val_bits_per_byte"]) is not None]
        facts |= {
            "val_loss": fmean(run["val_loss"] for run in runs),
            "bits_per_byte": fmean(bits) if bits else None,
            "tokens_per_second": fmean(speeds) if speeds else None,
            "trained_tokens": runs[0].get("tokens"),
            "trainings": [run.get("name") for run in runs],
            "gradients_cut_every": cut_every(runs),
        }
    return facts


def cost_facts(dataset: Dataset, price: Price | None) -> dict[str, Any]:
    """Pages and money by model, probe and context length."""
    by_label: dict[str, Any] = {
        "price_per_hour": price.per_hour if price else None,
        "currency": price.currency if price else None,
        "tokens_per_page": costs.PAGE,
    }
    for series in dataset.all_series:
        by_label[series.label] = {}
        for probe in costs.DOING:
            for length, seconds in costs.seconds_per_token(series, probe).items():
                entry = {
                    "seconds_per_token": seconds,
                    "pages_per_hour": costs.pages_per_hour(seconds),
                }
                if price:
                    entry["per_million_tokens"] = price.of_million(seconds)
                by_label[series.label].setdefault(probe, {})[str(length)] = entry
    return by_label


def baselines(dataset: Dataset) -> dict[str, float | None]:
    """What no model is needed for; None where no training gives it."""
    fields = ("unigram_entropy", "gzip_bits_per_byte", "xz_bits_per_byte")
    values = {
        field: [run[field] for run in dataset.trainings if run.get(field) is not None]
        for field in fields
    }
    return {field: fmean(measured) if measured else None for field, measured in values.items()}


def machine(dataset: Dataset) -> dict[str, Any]:
    """Where and with what the rows were measured; several values are joined by commas."""
    rows = dataset.rows
    if not rows:
        return {}
    versions = sorted({name for row in rows for name in row.versions})
    return {
        "device": units.unique(row.device.get("name") for row in rows),
        "kind": units.unique(row.device.get("kind") for row in rows),
        "threads": units.unique(row.device.get("threads") for row in rows),
        "memory_bytes": max((row.device.get("memory_bytes") or 0 for row in rows), default=0),
        "precision": units.unique(row.precision for row in rows),
        "processes": 1 + max(row.process for row in rows),
        "processes_of_a_point": _processes(dataset),
        "repeats_of_a_process": _ends([len(row.seconds) for row in rows if row.status == OK]),
        "fixed_tokens": max(
            (row.batch * row.context_length for row in rows if row.sweep == "fixed_tokens"),
            default=None,
        ),
        "decode_steps": max(
            (len(row.token_seconds) // len(row.seconds) for row in rows if row.seconds), default=0
        )
        or None,
        "seed": units.unique(row.seed for row in rows),
        "versions": {key: units.unique(row.versions.get(key) for row in rows) for key in versions},
        "commit": units.unique(row.commit for row in rows),
        "command": list(dict.fromkeys(row.command for row in rows)),
        "peak_method": units.unique(row.peak_method for row in rows),
        "date": max(str(row.started) for row in rows),
        "peak_flops": _ends([row.peak_flops for row in rows if row.peak_flops]) or None,
        "energy_methods": sorted({row.energy_method for row in rows}),
        "budget_bytes": sorted({row.budget_bytes for row in rows if row.budget_bytes}),
        "quiet": disturbance(rows),
    }


def _processes(dataset: Dataset) -> list[int]:
    """The fewest and the most processes that a finished point was measured in."""
    counts = []
    for series in dataset.all_series:
        for probe, sweep in {(row.probe, row.sweep) for row in series.rows}:
            points = rows_at(series.rows, probe, sweep).values()
            finished = [
                processes
                for processes in points
                if all(row.status == OK for row in processes.values())
            ]
            counts += [len(processes) for processes in finished]
    return _ends(counts) or [1, 1]


def _ends(values: Sequence[Any]) -> list[Any]:
    """The least and the most; an empty list for no values."""
    return [min(values), max(values)] if values else []


def failures(dataset: Dataset) -> list[dict[str, Any]]:
    """Every point that did not finish, under the label of its series."""
    fields = ("probe", "sweep", "context_length", "batch", "status", "error")
    return [
        {"model": series.label, **{name: getattr(row, name) for name in fields}}
        for series in dataset.all_series
        for row in series.rows
        if row.status != "ok"
    ]


def cut_every(runs: Iterable[dict[str, Any]]) -> list[int]:
    """Tokens between the cuts of trainings by truncated back-propagation, each length once."""
    return sorted({run["segment"] for run in runs if run.get("bptt") == "truncated"})


def disturbance(rows: Iterable[Row]) -> dict[str, int] | None:
    """How quiet the machine was, or None where a row does not know. A measurement is a point in one
    process: those that `finished`, those `measured_again` because one of their group was disturbed,
    how often that was (`repetitions`), those still `disturbed`, and those that `failed`."""
    every = list(rows)
    finished = [row for row in every if row.status == OK]
    if not finished or not all(row.disturbed for row in finished):
        return None
    return {
        "finished": len(finished),
        "measured_again": sum(row.visit > 0 for row in finished),
        "repetitions": sum(row.visit for row in finished),
        "disturbed": sum(row.is_disturbed for row in finished),
        "failed": len(every) - len(finished),
    }


# ---- single points -------------------------------------------------------------------------------


def finished(series: Series, probe: str) -> dict[int, list[Row]]:
    """By length, the rows of every point of batch 1 that finished, one for each process."""
    points = rows_at(series.rows, probe, "batch_1")
    every = {
        length: [processes[n] for n in sorted(processes)] for length, processes in points.items()
    }
    return {
        length: point for length, point in every.items() if all(row.status == OK for row in point)
    }  # fmt: skip


def latency_of(rows: Sequence[Row]) -> dict[str, float] | None:
    """p50 and p95 of single tokens, seconds."""
    percentiles = derived_metrics.token_percentiles(rows)
    return None if percentiles is None else {"p50": percentiles[0], "p95": percentiles[1]}


def use_of(rows: Sequence[Row]) -> dict[str, Any]:
    """MFU in both conventions, joules per token; null where not known."""
    return {
        "mfu": derived_metrics.utilisation(rows),
        "mfu_dense": derived_metrics.utilisation(rows, dense=True),
        "joules_per_token": derived_metrics.joules_per_token(rows),
        "disturbed": not derived_metrics.counted(rows),
    }


def batch_of(rows: Sequence[Row]) -> dict[str, Any]:
    """The largest batches and the tries of each process, and the tokens a second."""
    return {
        "max_batch": [row.max_batch or 0 for row in rows],
        "tried": [len(row.tried) for row in rows],
        "tokens_per_second": derived_metrics.tokens_per_second(rows),
    }


def figures(
    all_series: Sequence[Series], probes: tuple[str, ...], of: Callable[[Sequence[Row]], Any]
) -> dict[str, Any]:
    """By model, probe and length, what is known of every finished point of batch 1."""
    by_label: dict[str, Any] = {}
    for series in all_series:
        by_probe = {}
        for probe in probes:
            by_length = {str(at): of(point) for at, point in finished(series, probe).items()}
            by_probe[probe] = {at: fact for at, fact in by_length.items() if fact is not None}
        by_label[series.label] = {probe: points for probe, points in by_probe.items() if points}
    return by_label
