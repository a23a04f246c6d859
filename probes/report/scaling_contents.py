"""Everything the page says of a scaling study, as text: what `crossover.json` holds too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from core import units
from probes.analysis.scaling_study import Study
from probes.report import scaling_text, tuning_text
from probes.report.markup import Line, Table, plain
from probes.training_runs import TrainingRun

FIGURE = (
    "Every mark is a training, larger ones of larger models; the bands are 95 % intervals of the "
    "fitted curves. Dashed: extrapolated beyond what was measured."
)
LAWS = (
    "The law is what AICc prefers among those that the trainings can tell apart, with its weight "
    "among them; intervals are 95 % bootstrap intervals. The scatter is that of single trainings "
    "about the law."
)


@dataclass(frozen=True)
class Contents:
    """Sentences, picture and tables; title and facts are those of a page of its own."""

    title: str
    headline: str
    facts: tuple[str, ...]
    paragraphs: tuple[str, ...]
    alt: str
    figure: str
    laws: Table
    trials: Table

    def plain(self) -> dict[str, Any]:
        """This section as JSON values."""
        page: dict[str, Any] = plain(self)
        return page


def contents(
    study: Study, trainings: Sequence[dict[str, Any]], runs: Sequence[TrainingRun] = ()
) -> Contents:
    """Put a study into words; `trainings` are all that were given, `runs` their folders.

    Where the models were not searched alike, that stands in place of every comparison.
    """
    tuned, is_equal = tuning_text.of_families(runs, [family.label for family in study.families])
    if not is_equal:
        study = replace(study, comparisons=())
    headline = tuned if not is_equal else scaling_text.headline(study)
    paragraphs = scaling_text.paragraphs(study)
    if tuned and is_equal:
        paragraphs.append(tuned)
    laws = [
        Line(scaling_text.title(family), tuple(scaling_text.law_cells(family)), 2)
        for family in study.families
    ]
    trials = [
        Line(f"{scaling_text.title(family)} {size}", (*numbers, run), len(numbers))
        for family in study.families
        for size, *numbers, run in scaling_text.trial_cells(family)
    ]
    headings = tuple(heading for heading in scaling_text.TRIAL_HEADINGS if heading != "size")
    count = units.counted(len(trainings), "training")
    return Contents(
        title="Crossover report: scaling of " + ", ".join(map(scaling_text.title, study.families)),
        headline=headline,
        facts=(
            count,
            units.unique(run.get("precision") for run in trainings),
            f"data {units.unique(str(run.get('data_fingerprint'))[:12] for run in trainings)}",
        ),
        paragraphs=tuple(paragraphs),
        alt=f"Validation loss against training compute. {headline}",
        figure=FIGURE,
        laws=Table(LAWS, scaling_text.LAW_HEADINGS, tuple(laws)),
        trials=Table("", headings, tuple(trials)),
    )
