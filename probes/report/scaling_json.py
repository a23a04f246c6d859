"""The scaling study as plain values for `crossover.json`, and as tables for a terminal."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.table import Table

from probes.analysis.scaling_study import Study
from probes.report import scaling_text

SHOWN = (2, 6, 7)
"""Cells of a law that a terminal is wide enough for: its form, mean slope and scatter."""


def plain(study: Study) -> dict[str, Any]:
    """`families` by label: their trainings, law, Akaike weights, coefficients, mean slope and
    scatter (null without a law). `comparisons`: losses' differences at three amounts of compute,
    and the compute that the recurrent one needs for the other's loss, relative to the other's.
    `spending`, null where no steps are shared: the sum of the trainings' compute, what of it was
    computed, and their ratio."""
    families = {}
    for family in study.families:
        law, slope = family.law, family.exponent(*family.span)
        families[family.label] = {
            "trials": [asdict(trial) for trial in family.trials],
            "law": law and law.form,
            "weights": law and law.weights,
            "coefficients": {
                key: coefficient.plain()
                for key, coefficient in scaling_text.coefficients(family).items()
            },
            "slope": slope and slope.plain(),
            "scatter": law and law.scatter,
        }
    comparisons = [
        {
            "models": [comparison.recurrent.label, comparison.attention.label],
            "compute": list(comparison.compute),
            "differences": [gap.plain() for gap in comparison.differences],
            "saving": comparison.saving.plain(),
        }
        for comparison in study.comparisons
    ]
    spent = study.spending
    spending = spent and asdict(spent) | {"saving": spent.saving}
    return {"families": families, "comparisons": comparisons, "spending": spending}


def terminal(study: Study) -> list[Table]:
    """Every training, then the laws."""
    trials = _table("Trainings", scaling_text.TRIAL_HEADINGS)
    headings = ("model", *(scaling_text.LAW_HEADINGS[1 + place] for place in SHOWN))
    laws = _table("Loss against training compute", headings)
    for family in study.families:
        for cells in scaling_text.trial_cells(family):
            trials.add_row(scaling_text.title(family), *cells)
        cells = scaling_text.law_cells(family)
        laws.add_row(scaling_text.title(family), *(cells[place] for place in SHOWN))
    return [trials, laws]


def _table(title: str, headings: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in headings:
        numeric = heading.startswith("#")
        table.add_column(heading.removeprefix("#"), justify="right" if numeric else "left")
    return table
