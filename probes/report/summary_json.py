"""What a report finds, as plain data: the content of `crossover.json`.

* `crossovers`: one entry per measure (`train`, `prefill`, `decode`, `memory`, `state`, and the
  others of `probes.analysis.metrics.MEASURES` where they were probed). With more than one pair of
  models the keys read `train:rwkv7/gpt`. An entry holds `kind` (see `crossovers.Comparison`),
  `models` (recurrent, attention), `sweep`, `interval`, a `reason` in words, and the `length`
  in tokens from which the recurrent one stays cheaper wherever a side is decided, with `low` and
  `high`, both null where a point is a single number; `none_in_range: true` where it is decided that
  there is none; neither where that is not decided. `multiplicity` counts the decided changes of
  side, `crossings` lists where, if that is not simply the one. `ratios` holds by length the cost
  of the recurrent one over that of the other, with an interval and the `side` it decides; all
  intervals of an entry hold together in 95 % of sweeps. `between`: shortest and longest length
  whose side is not decided. `disturbed`: lengths at which one of them was, and is not compared.
* `curves`: by measure, per model its points: `value` (lower quartile over the processes of
  the lower quartiles of their repeats) and `middle_half` of all repeats, both null where the point
  failed; `status` (`disturbed`: every process was), and from how many `processes` and `repeats`.
* `slopes`: per model and measure the exponent of cost against length: `value`, `low`,
  `high`, `window` in tokens, and `linear`: whether the cost is a + bT, as
  `crossovers.slope` judges. `bend` is the share of cT^2 in bT + cT^2 at the longest length, `local`
  the slope at the longest lengths without the fixed part, both null with three lengths.
  `quadratic` is the coefficient c,
  in seconds (or bytes) per squared token, with its interval; `aicc` the weights of the three
  shapes over all lengths, null with too few points.
* `costs`: `price_per_hour` and `currency` if a price was given, `tokens_per_page`, and per
  model, probe and context length `seconds_per_token`, `pages_per_hour` and, with a price,
  `per_million_tokens`.
* `latencies`, `use`, `batches`: the figures of the page's tables, by model, probe and context
  length, of batch 1: `p50` and `p95` of single tokens in seconds; `mfu`, `mfu_dense` and
  `joules_per_token`; the largest batch of each process, batches tried, and tokens per second.
* `document`: after a text of so many tokens (`length`, about 50 pages), by model the seconds of
  `reading`, the seconds per token of `writing` and the bytes of `keeping` it: `value`, `how` it was
  had (`measured`, `predicted` with `low` and `high`, `calculated`, `failed` with a `status`, or
  `unknown`), the `longest` length measured, and the value `reached` there. Null where nothing was
  measured that it is made of.
* `page`: everything the page says, word by word (`probes.report.contents`): headline, paragraphs,
  the words of every chart and its points, every table. Where nothing was probed, `scaling.page`.
* `scaling`: where the trainings differ in compute, what `probes.report.scaling_json.plain`
  describes.
* `equal_quality`: where a scaling study's trainings stand beside probes of several sizes, what
  `probes.report.quality_text.plain` describes.
* `others`: with `others=`, the crossovers of this report and of those of others, machine by
  machine, as `scripts/verify.py` has them, told apart by their digest; how many were left out.
* `models`, `baselines`, `machine`, `failures`: what was compared, on what, and which points
  did not finish. A model has its `config` and the `weights` it was measured with, so that
  `scripts/verify.py` can measure it again. `machine.quiet` counts measurements, a point in one
  process each: those that `finished`, those `measured_again` as other processes had disturbed them
  or their group, how often that was (`repetitions`), those still `disturbed` and those that
  `failed`; null where rows do not know. `machine.processes_of_a_point` and `repeats_of_a_process`:
  the least and the most; `fixed_tokens` and `decode_steps`: the probe's, null where not probed.
  `mixed`: what differs between rows that were compared all the same, with `allow_mixed` or, of
  sizes, `unmatched`. `damaged`: lines and files that could not be read.
* `digest`: SHA-256 of everything else, by which others see that nothing was changed or cut off.
"""

from __future__ import annotations

from typing import Any

from core.interval import Interval
from probes.analysis.analysis import Analysis
from probes.analysis.crossovers import Comparison
from probes.analysis.metrics import MEASURES
from probes.report import phrases
from probes.report.contents import values

INTERVAL = "95 % bootstrap"


def summarise(analysis: Analysis) -> dict[str, Any]:
    """The content of `crossover.json`, as described at the top of this file, without `page`."""
    dataset = analysis.dataset
    single = len(dataset.pairs) == 1
    by_series: dict[str, dict[str, Any]] = {series.label: {} for series in dataset.all_series}
    for (label, key), slope in analysis.slopes.items():
        by_series[label][key] = {
            **slope.exponent.plain(),
            "window": list(slope.window),
            "linear": slope.linear,
            "quadratic": _named("c", slope.quadratic.c),
            "bend": slope.bend.share.plain() if slope.bend else None,
            "local": slope.bend.local.plain() if slope.bend else None,
            "aicc": slope.growth.weights if slope.growth else None,
        }
    crossovers = {}
    for comparison in analysis.comparisons:
        pair = f"{comparison.recurrent.series.label}/{comparison.attention.series.label}"
        key = comparison.measure.key if single else f"{comparison.measure.key}:{pair}"
        crossovers[key] = _crossover(comparison)
    return {
        "crossovers": crossovers,
        "slopes": by_series,
        "models": analysis.models,
        "baselines": analysis.baselines,
        "curves": {
            measure.key: {
                "title": measure.title,
                "unit": measure.unit,
                "per": measure.per,
                "probe": measure.probe,
                "sweep": measure.sweep,
                "points": {curve.series.label: values(curve) for curve in curves},
            }
            for measure in MEASURES
            if (curves := analysis.curves.get(measure.key))
        },
        "costs": analysis.costs,
        "latencies": analysis.latencies,
        "use": analysis.use,
        "batches": analysis.batches,
        "document": analysis.document.plain() if analysis.document else None,
        "mixed": list(dataset.mixed),
        "damaged": list(dataset.damaged),
        "machine": analysis.machine,
        "failures": analysis.failures,
    }


def _named(name: str, interval: Interval) -> dict[str, float | None]:
    """An interval whose value goes by another name."""
    return {name: interval.value, "low": interval.low, "high": interval.high}


def _crossover(comparison: Comparison) -> dict[str, Any]:
    entry: dict[str, Any] = {"kind": comparison.kind}
    if (crossing := comparison.crossover) is not None:
        entry |= _named("length", crossing)
    elif comparison.none_in_range:
        entry["none_in_range"] = True
    if comparison.kind != "missing":
        entry["multiplicity"] = len(comparison.crossings)
        entry["between"] = list(comparison.between) if comparison.between else None
    entry["disturbed"] = sorted({point.length for point in comparison.disturbed})
    if comparison.kind in ("several", "reverse"):
        entry["crossings"] = [crossing.value for crossing in comparison.crossings]
    if comparison.intervals:
        entry["ratios"] = {
            str(length): {"side": comparison.sides[length], **ratio.plain()}
            for length, ratio in comparison.intervals.items()
        }
    return entry | {
        "reason": phrases.reason(comparison),
        "models": [comparison.recurrent.series.label, comparison.attention.series.label],
        "sweep": comparison.measure.sweep,
        "interval": INTERVAL,
    }
