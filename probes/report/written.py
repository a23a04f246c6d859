"""Texts that the compared models wrote while they were trained, one of each, side by side."""

from __future__ import annotations

import re
from dataclasses import dataclass

from probes.analysis.dataset import Dataset
from probes.report import phrases

MOST = 600
"""Characters of a text that are shown."""
UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters, but for line ends and tabs, and halves of pairs, which no page can hold."""


@dataclass(frozen=True)
class Sample:
    """What one model wrote after a prompt."""

    label: str
    """The label of the series."""
    name: str
    where: str
    prompt: str
    text: str


def samples(dataset: Dataset) -> tuple[Sample, ...]:
    """The last text of one finished training of every series that has one."""
    by_folder = {str(run.path.resolve()): run for run in dataset.runs}
    found = []
    for series in dataset.all_series:
        for training in dataset.trainings_of(series):
            run = by_folder.get(str(training.get("folder")))
            if run is not None and (said := run.sample) is not None:
                where = f"at step {said['step']:,} of its training"
                texts = (_shown(said["prompt"]), _shown(said["text"]))
                found.append(Sample(series.label, phrases.name(series), where, *texts))
                break
    return tuple(found)


def note(texts: tuple[Sample, ...]) -> str:
    """What the texts are, for a reader; nothing without any."""
    if not texts:
        return ""
    who = "The model was" if len(texts) == 1 else "Each model was"
    same = len(texts) > 1 and len({one.prompt for one in texts}) == 1
    return (
        f"{who} given {'the same' if same else 'a'} beginning, in bold, and drew every further "
        "token at random by its own probabilities. This is the last text that was written, not "
        "one chosen for being good."
    )


def _shown(text: str) -> str:
    """A text that a page can hold, of `MOST` characters at most."""
    kept = UNSEEN.sub("\ufffd", text)
    return kept if len(kept) <= MOST else f"{kept[: MOST - 1]}…"
