"""The scaling study as HTML: a section of the report's page, or a page where nothing was probed."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import TYPE_CHECKING

from probes import tables, words
from probes.frame import framed
from probes.scaling import figure, tell
from probes.scaling.study import Study

if TYPE_CHECKING:
    from probes.report import Report


def page(report: Report) -> str:
    """The whole file: what a report is where trainings are all there is."""
    study, trainings = report.scaling, report.material.trainings
    assert study is not None
    facts = [
        f"{len(trainings)} trainings",
        words.unique(one.get("precision") for one in trainings),
        f"data {words.unique(str(one.get('data_fingerprint'))[:12] for one in trainings)}",
    ]
    shown = ", ".join(tell.title(family) for family in study.families)
    title = f"Crossover report: scaling of {shown}"
    parts = {"scaling": section(study)}
    body = "{{warnings}}\n{{scaling}}"
    return framed(body, parts, report.material, title, tell.headline(study), facts)


def section(study: Study | None) -> str:
    """Sentences, figure and tables; nothing without a study."""
    if study is None:
        return ""
    story = "".join(f"<p>{tables.prose(text)}</p>" for text in tell.paragraphs(study))
    laws = [
        tables.row(escape(tell.title(family)), tell.law_cells(family), 2)
        for family in study.families
    ]
    trials = []
    for family in study.families:
        for size, *numbers in tell.trial_cells(family):
            head = f"{escape(tell.title(family))} {escape(size)}"
            trials.append(tables.row(head, numbers, len(numbers)))
    caption = (
        "The law is what AICc prefers among those that the trainings can tell apart, with its "
        "weight among them; intervals are 95 % bootstrap intervals. The scatter is that of single "
        "trainings about the law."
    )
    headings = [one for one in tell.TRIAL_HEADINGS if one != "size"]
    return (
        '<section aria-labelledby="scaling"><h2 id="scaling">Loss against training compute</h2>'
        f"{story}<figure>{_picture(study)}<figcaption><p>Every mark is a training, larger ones of "
        "larger models; the bands are 95 % intervals of the fitted curves. Dashed: extrapolated "
        f"beyond what was measured.</p></figcaption></figure>"
        f"{tables.table(caption, tell.LAW_HEADINGS, laws)}"
        f"<details><summary>All trainings</summary>{tables.table('', headings, trials)}</details>"
        "</section>"
    )


def _picture(study: Study) -> str:
    buffer = io.BytesIO()
    figure.draw(study).savefig(buffer, format="png", dpi=160)
    data = base64.b64encode(buffer.getvalue()).decode()
    alt = escape("Validation loss against training compute. " + tell.headline(study), quote=True)
    return f'<img alt="{alt}" style="width:100%" src="data:image/png;base64,{data}">'
