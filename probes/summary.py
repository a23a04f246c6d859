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
  whose side is not decided.
* `slopes`: per contestant and measure the exponent of cost against length: `value`, `low`,
  `high`, `window` in tokens, and `linear`: whether the cost is a + bT, as `compare.slope` judges.
  `bend` is the share of cT^2 in bT + cT^2 at the longest length, `local` the slope at the longest
  lengths without the fixed part, both null with three lengths. `quadratic` is the coefficient c,
  in seconds (or bytes) per squared token, with its interval; `aicc` the weights of the three
  shapes over all lengths, null with too few points.
* `costs`: `price_per_hour` and `currency` if a price was given, `tokens_per_page`, and per
  contestant, probe and context length `seconds_per_token`, `pages_per_hour` and, with a price,
  `per_million_tokens`.
* `scaling`: where the trainings differ in compute, what `probes.scaling.record.plain` describes.
* `contestants`, `baselines`, `machine`, `failures`: what was compared, on what, and which points
  did not finish. `machine.quiet` counts the finished `measurements`, those `measured_again` as
  other processes had disturbed them or their company, and those still `disturbed`; null where rows
  do not know. `mixed`: what differs between rows that were compared all the same, with
  `allow_mixed` or, of sizes, `unmatched`. `damaged`: lines and files that could not be read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isfinite, isnan
from statistics import fmean
from typing import Any

from probes import costs, words
from probes.collect import Arm, Material
from probes.compare import Finding, Slope
from probes.costs import Price
from probes.rows import Row
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
        "costs": _costs(material, price),
        "mixed": list(material.mixed),
        "damaged": list(material.damaged),
        "machine": machine(material.rows),
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


def machine(rows: Sequence[Row]) -> dict[str, Any]:
    """Where and with what the rows were measured; several values are joined by commas."""
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
        "seed": words.unique(row.seed for row in rows),
        "versions": {key: words.unique(row.versions.get(key) for row in rows) for key in versions},
        "commit": words.unique(row.commit for row in rows),
        "command": list(dict.fromkeys(row.command for row in rows)),
        "peak_method": words.unique(row.peak_method for row in rows),
        "date": max(str(row.started) for row in rows),
        "quiet": words.disturbance(rows),
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
