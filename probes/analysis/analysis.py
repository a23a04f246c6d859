"""Everything that follows from a dataset, computed once; what reports it only formats it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from probes.analysis import facts
from probes.analysis.costs import Price
from probes.analysis.crossovers import Comparison, Curve, Slope, comparisons, curves, slope
from probes.analysis.dataset import Dataset
from probes.analysis.document import Document, document
from probes.analysis.equal_quality import Level, levels
from probes.analysis.metrics import MEASURES
from probes.analysis.scaling_study import Study, study


@dataclass(frozen=True)
class Analysis:
    """Curves, comparisons, slopes and facts of one dataset."""

    dataset: Dataset
    curves: dict[str, list[Curve]]
    """By measure, of every model that has a point of it; only measures that have curves."""
    comparisons: tuple[Comparison, ...]
    slopes: dict[tuple[str, str], Slope]
    """By series label and measure key; absent with fewer than three lengths in the window."""
    scaling: Study | None
    """What the trainings say, if they differ in compute."""
    equal_quality: tuple[Level, ...]
    """Costs of what reaches the same loss, where the scaling study's sizes were measured too."""
    price: Price | None
    """What an hour of the machine costs, if the user said."""
    machine: dict[str, Any]
    baselines: dict[str, float | None]
    failures: list[dict[str, Any]]
    models: dict[str, dict[str, Any]]
    costs: dict[str, Any]
    latencies: dict[str, Any]
    use: dict[str, Any]
    batches: dict[str, Any]
    document: Document | None
    """What a person feels of each model; None where nothing was measured that it is made of."""


def analyse(dataset: Dataset, window: tuple[int, int], price: Price | None = None) -> Analysis:
    """Conclude everything from `dataset`; slopes are fitted over `window`, in tokens."""
    drawn = {
        measure.key: all_curves for measure in MEASURES if (all_curves := curves(dataset, measure))
    }
    all_series = dataset.all_series
    scaling = study(dataset.trainings)
    return Analysis(
        dataset=dataset,
        curves=drawn,
        comparisons=tuple(comparisons(dataset)),
        slopes={
            (curve.series.label, measure.key): fitted
            for measure in MEASURES
            for curve in drawn.get(measure.key, [])
            if (fitted := slope(curve, measure, window))
        },
        scaling=scaling,
        equal_quality=tuple(levels(scaling, drawn)) if scaling else (),
        price=price,
        machine=facts.machine(dataset),
        baselines=facts.baselines(dataset),
        failures=facts.failures(dataset),
        models={series.label: facts.model_facts(dataset, series) for series in all_series},
        costs=facts.cost_facts(dataset, price),
        latencies=facts.figures(all_series, facts.DECODED, facts.latency_of),
        use=facts.figures(all_series, facts.USED, facts.use_of),
        batches=facts.figures(all_series, facts.FILLED, facts.batch_of),
        document=document(all_series, drawn),
    )
