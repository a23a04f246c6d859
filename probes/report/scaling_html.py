"""The scaling study as HTML: a section of the report's page, or a page where nothing was probed."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

from probes.analysis.scaling_study import Study
from probes.report import scaling_contents, scaling_figure
from probes.report.template import render
from probes.training_runs import TrainingRun


def page(
    study: Study,
    trainings: Sequence[dict[str, Any]],
    warnings: Sequence[str],
    runs: Sequence[TrainingRun] = (),
) -> str:
    """The whole file where trainings are all that was given."""
    values = section(study, trainings, runs)
    texts = values["scaling"]
    return render(
        "scaling_page.html",
        title=texts.title,
        headline=texts.headline,
        facts=texts.facts,
        quiet="",
        notices=warnings,
        **values,
    )


def section(
    study: Study, trainings: Sequence[dict[str, Any]], runs: Sequence[TrainingRun] = ()
) -> dict[str, Any]:
    """What `scaling.html` shows: the texts, and the figure as a PNG in base64."""
    buffer = io.BytesIO()
    scaling_figure.draw(study).savefig(buffer, format="png", dpi=160)
    return {
        "scaling": scaling_contents.contents(study, trainings, runs),
        "picture": base64.b64encode(buffer.getvalue()).decode(),
    }
