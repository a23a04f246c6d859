"""Test how well sweeps agree: `python benchmarks/repeatability.py -m model=rwkv4,transformer`.

Runs the same sweep twice, `pairs` times over, and says how often the two 95 % intervals of each
crossover overlap. Two correct ones do nearly always; where they do not, something changes between
sweeps but not between the processes of one, and the intervals are too narrow. Sweeps go to
runs/GROUP/00-a, 00-b, 01-a and so on; the same command continues.
"""

from __future__ import annotations

from scripts.cli.launch import launch

if __name__ == "__main__":  # before the imports that take long: a wrong word is answered at once
    launch("repeatability", "benchmarks.repeatability:main", together=True)

from collections import defaultdict
from collections.abc import Sequence
from math import inf
from pathlib import Path

from benchmarks.harness import Row, publish, table
from conf.schema import ProbeConf, RepeatabilityConf
from core import units
from core.errors import UserError
from core.writable import check_writable
from models.registry import ModelSpec
from probes.analysis.crossovers import Comparison, comparisons
from probes.analysis.dataset import collect
from probes.analysis.ratios import ABOVE, BELOW
from probes.measure.sweep import run_sweep
from scripts.cli.probed_models import probed_models
from training.run_folder.folder import check_name

Span = tuple[float, float]


def main(confs: list[RepeatabilityConf]) -> None:
    """Run the sweeps and print a row for every pair of crossovers, then the counts."""
    conf = confs[0]
    specs, folder = models_and_folder(confs)
    rows = []
    agreed: dict[str, list[bool]] = defaultdict(list)
    for number in range(conf.pairs):
        first, second = (
            with_interval(sweep(specs, conf, folder / f"{number:02d}-{run}")) for run in "ab"
        )
        for name in (name for name in first if name in second):
            pair = first[name], second[name]
            agreed[name].append(overlap(*map(span, pair)))
            agree = "yes" if agreed[name][-1] else "no"
            rows.append(Row(f"{number}", (name, *map(describe, pair), agree)))
    if not rows:
        raise UserError(
            "no crossover has an interval: measure a recurrent and an attention model, at two "
            "lengths or more, with repeats or processes above 1"
        )
    publish(
        "Pairs of sweeps",
        table(("pair", "measure", "first sweep", "second sweep", "overlap"), rows),
        [
            f"{name}: the intervals overlap in {sum(overlaps)} of {len(overlaps)} pairs"
            for name, overlaps in sorted(agreed.items())
        ],
    )


def models_and_folder(confs: Sequence[ProbeConf]) -> tuple[list[ModelSpec], Path]:
    """The models that a multirun names, and the folder of its group, where sweeps can be kept."""
    folder = Path(confs[0].runs_dir, check_name("group", confs[0].group))
    check_writable(folder, hint="choose another runs_dir")
    return probed_models(confs), folder


def sweep(specs: Sequence[ModelSpec], conf: ProbeConf, folder: Path) -> dict[str, Comparison]:
    """Run one sweep; its comparisons by measure and models."""
    run_sweep(specs, conf, folder / "probes.jsonl", lambda row: None)
    return {
        f"{pair.measure.key} {pair.recurrent.series.label}/{pair.attention.series.label}": pair
        for pair in comparisons(collect([folder]))
    }


def with_interval(pairs: dict[str, Comparison]) -> dict[str, Comparison]:
    """Those of which every length has an interval."""
    return {
        name: pair
        for name, pair in pairs.items()
        if pair.kind != "missing" and not any(at.ends is None for at in pair.intervals.values())
    }


def span(comparison: Comparison) -> Span:
    """The interval in tokens, open where it leaves the lengths that are decided."""
    crossing = comparison.crossover
    if crossing and crossing.ends:
        return crossing.ends
    dearer = comparison.on(ABOVE)
    cheaper = [length for length in comparison.on(BELOW) if length > max(dearer, default=0)]
    return max(dearer, default=-inf), min(cheaper, default=inf)


def overlap(first: Span, second: Span) -> bool:
    """Whether two intervals, ends included, have a length in common."""
    return max(first[0], second[0]) <= min(first[1], second[1])


def describe(comparison: Comparison) -> str:
    """`1,230 (1,100 to 1,400)`, `none (above 4,096)`."""
    crossing = comparison.crossover
    low, high = span(comparison)
    length = units.tokens(crossing.number) if crossing else "none"
    if low == -inf and high == inf:
        return f"{length} (anywhere)"
    if low == -inf:
        return f"{length} (below {units.tokens(high)})"
    if high == inf:
        return f"{length} (above {units.tokens(low)})"
    return f"{length} ({units.tokens(low)} to {units.tokens(high)})"
