"""What a report finds, as plain data: the content of `crossover.json`.

* `crossovers`: one entry per measure (`train`, `prefill`, `decode`, `memory`, `state`, and the
  others of `probes.measures.MEASURES` where they were probed). With more than one pair of
  contestants the keys read `train:rwkv7/gpt`. An entry holds `kind` (see `compare.Finding`),
  `contestants` (recurrent, attention), `sweep`, `interval`, a `reason` in words, and the `length`
  in tokens from which the recurrent one stays cheaper wherever a side is decided, with `low` and
  `high`, both null where a point is a single number; `none_in_range: true` where it is decided that
  there is none; neither where that is not decided. `multiplicity` counts the decided changes of
  side, `crossings` lists where, if that is not simply the one. `ratios` holds by length the cost
  of the recurrent one over that of the other, with an interval and the `side` it decides; all
  intervals of an entry hold together in 95 % of sweeps. `between`: shortest and longest length
  whose side is not decided. `disturbed`: lengths at which one of them was, and is not compared.
* `curves`: by measure, per contestant its points: `value` (lower quartile over the processes of
  the lower quartiles of their repeats) and `middle_half` of all repeats, both null where the point
  failed; `status` (`disturbed`: every process was), and from how many `processes` and `repeats`.
* `slopes`: per contestant and measure the exponent of cost against length: `value`, `low`,
  `high`, `window` in tokens, and `linear`: whether the cost is a + bT, as `compare.slope` judges.
  `bend` is the share of cT^2 in bT + cT^2 at the longest length, `local` the slope at the longest
  lengths without the fixed part, both null with three lengths. `quadratic` is the coefficient c,
  in seconds (or bytes) per squared token, with its interval; `aicc` the weights of the three
  shapes over all lengths, null with too few points.
* `costs`: `price_per_hour` and `currency` if a price was given, `tokens_per_page`, and per
  contestant, probe and context length `seconds_per_token`, `pages_per_hour` and, with a price,
  `per_million_tokens`.
* `latencies`, `use`, `batches`: the figures of the page's tables, by contestant, probe and context
  length, of batch 1: `p50` and `p95` of single tokens in seconds; `mfu`, `mfu_dense` and
  `joules_per_token`; the largest batch of each process, batches tried, and tokens per second.
* `page`: everything the page says, word by word (`probes.contents`): headline, paragraphs, the
  words of every chart and its points, every table. Where nothing was probed, `scaling.page`.
* `scaling`: where the trainings differ in compute, what `probes.scaling.record.plain` describes.
* `contestants`, `baselines`, `machine`, `failures`: what was compared, on what, and which points
  did not finish. `machine.quiet` counts measurements, a point in one process each: those that
  `finished`, those `measured_again` as other processes had disturbed them or their company, how
  often that was (`repetitions`), those still `disturbed` and those that `failed`; null where rows
  do not know. `machine.processes_of_a_point` and `repeats_of_a_process`: the least and the most.
  `mixed`: what differs between rows that were compared all the same, with `allow_mixed` or, of
  sizes, `unmatched`. `damaged`: lines and files that could not be read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isfinite, isnan
from statistics import fmean
from typing import Any

from probes import accounts, compare, costs, words
from probes.collect import Arm, Material
from probes.compare import Finding, Slope
from probes.contents import values
from probes.costs import Price
from probes.measures import MEASURES
from probes.rows import OK
from probes.statistics import Estimate

INTERVAL = "95 % bootstrap"


def summarise(
    material: Material,
    found: Sequence[Finding],
    slopes: dict[tuple[str, str], Slope],
    price: Price | None,
) -> dict[str, Any]:
    """The content of `crossover.json`, as described at the top of this file."""
    single = len(material.pairs) == 1
    by_arm: dict[str, dict[str, Any]] = {arm.label: {} for arm in material.arms}
    for (label, key), one in slopes.items():
        by_arm[label][key] = {
            "value": one.value,
            "low": one.low,
            "high": one.high,
            "window": list(one.window),
            "linear": one.linear,
            "quadratic": _quadratic(one),
            "bend": _estimate(one.bend.share) if one.bend else None,
            "local": _estimate(one.bend.local) if one.bend else None,
            "aicc": one.growth.weights if one.growth else None,
        }
    return {
        "crossovers": {_key(one, single): _crossover(one) for one in found},
        "slopes": by_arm,
        "contestants": {arm.label: _contestant(material, arm) for arm in material.arms},
        "baselines": baselines(material),
        "curves": _curves(material),
        "costs": _costs(material, price),
        "latencies": accounts.figures(material.arms, accounts.DECODED, accounts.latency_of),
        "use": accounts.figures(material.arms, accounts.USED, accounts.use_of),
        "batches": accounts.figures(material.arms, accounts.FILLED, accounts.batch_of),
        "mixed": list(material.mixed),
        "damaged": list(material.damaged),
        "machine": machine(material),
        "failures": failures(material),
    }


def _quadratic(one: Slope) -> dict[str, float | None]:
    """c of `a + bT + cT^2` and its interval; None, not nan, where there is none."""
    fit = one.quadratic
    values = {"c": fit.c, "low": fit.c_low, "high": fit.c_high}
    return {name: None if isnan(value) else value for name, value in values.items()}


def _estimate(one: Estimate) -> dict[str, float | None]:
    """Value and ends; None where there is no number."""
    values = {"value": one.value, "low": one.low, "high": one.high}
    return {name: value if isfinite(value) else None for name, value in values.items()}


def _key(finding: Finding, single: bool) -> str:
    pair = f"{finding.recurrent.arm.label}/{finding.attention.arm.label}"
    return finding.measure.key if single else f"{finding.measure.key}:{pair}"


def _crossover(finding: Finding) -> dict[str, Any]:
    entry: dict[str, Any] = {"kind": finding.kind}
    if (crossing := finding.crossover) is not None:
        entry |= {"length": crossing.length, "low": crossing.low, "high": crossing.high}
    elif finding.none_in_range:
        entry["none_in_range"] = True
    if finding.kind != "missing":
        entry["multiplicity"] = len(finding.crossings)
        entry["between"] = list(finding.between) if finding.between else None
    entry["disturbed"] = sorted({point.length for point in finding.disturbed})
    if finding.kind in ("several", "reverse"):
        entry["crossings"] = [one.length for one in finding.crossings]
    if finding.intervals:
        entry["ratios"] = {
            str(length): {"side": finding.sides[length], **_estimate(one)}
            for length, one in finding.intervals.items()
        }
    return entry | {
        "reason": words.reason(finding),
        "contestants": [finding.recurrent.arm.label, finding.attention.arm.label],
        "sweep": finding.measure.sweep,
        "interval": INTERVAL,
    }


def _contestant(material: Material, arm: Arm) -> dict[str, Any]:
    """What one arm is and, over its finished trainings, how well it learned."""
    facts: dict[str, Any] = {
        "contestant": arm.contestant,
        "size": arm.size,
        "parameters": arm.parameters,
        "backends": arm.backends(),
    }
    if runs := material.trainings_of(arm):
        facts |= {
            "val_loss": fmean(run["val_loss"] for run in runs),
            "bits_per_byte": fmean(run["val_bits_per_byte"] for run in runs),
            "tokens_per_second": _mean(run.get("tokens_per_second") for run in runs),
            "trained_tokens": runs[0].get("tokens"),
            "trainings": [run.get("name") for run in runs],
            "gradients_cut_every": words.cut_every(runs),
        }
    return facts


def _mean(values: Iterable[float | None]) -> float | None:
    """Of those that are known; a training of very few steps has no speed."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _costs(material: Material, price: Price | None) -> dict[str, Any]:
    """Pages and money by contestant, probe and context length."""
    found: dict[str, Any] = {
        "price_per_hour": price.per_hour if price else None,
        "currency": price.currency if price else None,
        "tokens_per_page": costs.PAGE,
    }
    for arm in material.arms:
        found[arm.label] = {}
        for probe in costs.DOING:
            for length, seconds in costs.seconds_per_token(arm, probe).items():
                entry = {
                    "seconds_per_token": seconds,
                    "pages_per_hour": costs.pages_per_hour(seconds),
                }
                if price:
                    entry["per_million_tokens"] = price.of_million(seconds)
                found[arm.label].setdefault(probe, {})[str(length)] = entry
    return found


def baselines(material: Material) -> dict[str, float | None]:
    """What no model is needed for; None where no training gives it."""
    fields = ("unigram_entropy", "gzip_bits_per_byte", "xz_bits_per_byte")
    values = {
        field: [run[field] for run in material.trainings if run.get(field) is not None]
        for field in fields
    }
    return {field: fmean(found) if found else None for field, found in values.items()}


def machine(material: Material) -> dict[str, Any]:
    """Where and with what the rows were measured; several values are joined by commas."""
    rows = material.rows
    if not rows:
        return {}
    versions = sorted({name for row in rows for name in row.versions})
    return {
        "device": words.unique(row.device.get("name") for row in rows),
        "kind": words.unique(row.device.get("kind") for row in rows),
        "threads": words.unique(row.device.get("threads") for row in rows),
        "memory_bytes": max((row.device.get("memory_bytes") or 0 for row in rows), default=0),
        "precision": words.unique(row.precision for row in rows),
        "processes": 1 + max(row.process for row in rows),
        "processes_of_a_point": _processes(material),
        "repeats_of_a_process": _ends([len(row.seconds) for row in rows if row.status == OK]),
        "seed": words.unique(row.seed for row in rows),
        "versions": {key: words.unique(row.versions.get(key) for row in rows) for key in versions},
        "commit": words.unique(row.commit for row in rows),
        "command": list(dict.fromkeys(row.command for row in rows)),
        "peak_method": words.unique(row.peak_method for row in rows),
        "date": max(str(row.started) for row in rows),
        "peak_flops": _ends([row.peak_flops for row in rows if row.peak_flops]) or None,
        "energy_methods": sorted({row.energy_method for row in rows}),
        "budget_bytes": sorted({row.budget_bytes for row in rows if row.budget_bytes}),
        "quiet": words.disturbance(rows),
    }


def _processes(material: Material) -> list[int]:
    """The fewest and the most processes that a finished point was measured in."""
    counts = []
    for arm in material.arms:
        for probe, sweep in {(row.probe, row.sweep) for row in arm.rows}:
            points = compare.rows_at(arm.rows, probe, sweep).values()
            finished = [own for own in points if all(row.status == OK for row in own.values())]
            counts += [len(own) for own in finished]
    return _ends(counts) or [1, 1]


def _ends(values: Sequence[Any]) -> list[Any]:
    """The least and the most; nothing of nothing."""
    return [min(values), max(values)] if values else []


def _curves(material: Material) -> dict[str, Any]:
    """The points of every curve, by measure and contestant."""
    return {
        measure.key: {
            "title": measure.title,
            "unit": measure.unit,
            "per": measure.per,
            "probe": measure.probe,
            "sweep": measure.sweep,
            "points": {one.arm.label: values(one) for one in found},
        }
        for measure in MEASURES
        if (found := compare.curves(material, measure))
    }


def failures(material: Material) -> list[dict[str, Any]]:
    """Every point that did not finish, under the label of its arm."""
    fields = ("probe", "sweep", "context_length", "batch", "status", "error")
    return [
        {"contestant": arm.label, **{name: getattr(row, name) for name in fields}}
        for arm in material.arms
        for row in arm.rows
        if row.status != "ok"
    ]
