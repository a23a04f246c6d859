"""How the settings of compared models were chosen: a sentence for reports of other things."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core.units import listing
from probes.analysis import tuning
from probes.analysis.training_grid import decisive, grid
from probes.report.trainings_text import spoken
from probes.training_runs import TrainingRun

BUDGET = (
    "trainer.max_steps", "optim.decay_steps", "optim.decay_share", "init_from", "take", "trunk",
)  # fmt: skip
"""Keys by which the trainings of a scaling study differ on purpose."""


def of_pair(
    runs: Sequence[TrainingRun], sides: Sequence[Sequence[dict[str, Any]]]
) -> tuple[str, bool]:
    """A sentence about two models, and whether they were searched alike.

    `sides` are the summaries of the trainings of each. Nothing is said, and nothing held against
    them, where their configurations are not known.
    """
    known = [run for run in runs if run.config]
    matched = [[run for run in known if run.summary in side] for side in sides]
    arms = grid([run for side in matched for run in side]).arms if all(matched) else ()
    if len(arms) != 2:
        return "", True
    searches = [arm.search for arm in arms]
    if not tuning.same(*searches):
        said = "; ".join(f"{spoken(arm)}: {tuning.describe(arm.search)}" for arm in arms)
        return f"They were not searched alike ({said}).", False
    record = searches[0].record
    if record is None:
        if searches[0].is_none:
            return "Neither was searched: both were trained with the same settings.", True
        return f"Both had the same search: {tuning.describe(searches[0])}.", True
    found = listing([f"{tuning.shown(record.best(arm.label))} for {spoken(arm)}" for arm in arms])
    steps = {run.config.get("trainer.max_steps") for side in matched for run in side}
    other = "" if steps == {record.steps} else " These trainings have another number of steps."
    return (
        f"The same search chose {record.key} for both, {found}: {tuning.chosen(record)}.{other}",
        True,
    )


def of_families(runs: Sequence[TrainingRun], labels: Sequence[str]) -> tuple[str, bool]:
    """A sentence about the models of a scaling study, and whether they were searched alike.

    Sizes and budgets are what is studied, and no search. Nothing is said as in `of_pair`.
    """
    families = [[run for run in runs if run.label == label and run.summary] for label in labels]
    if len(families) < 2 or not all(run.config for family in families for run in family):
        return "", True
    configs = [[decisive(run) for run in family] for family in families]
    varying = tuning.varying(config for family in configs for config in family)
    keys = [key for key in varying if key not in BUDGET and not key.startswith("model.")]
    searches = [
        tuning.search_of(family, config, keys)
        for family, config in zip(families, configs, strict=True)
    ]
    if all(tuning.same(searches[0], search) for search in searches[1:]):
        if searches[0].is_none:
            return "No model was searched: all were trained with the same settings.", True
        return f"Every model had the same search: {tuning.describe(searches[0])}.", True
    said = "; ".join(
        f"{label}: {tuning.describe(search)}"
        for label, search in zip(labels, searches, strict=True)
    )
    return f"The models were not searched alike ({said}), so they are not compared.", False
