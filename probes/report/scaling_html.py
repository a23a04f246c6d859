"""The scaling study as HTML: a section of the report's page, or a page where nothing was probed."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import Any

from probes.analysis.scaling_study import Study
from probes.report import scaling_figure
from probes.report.markup import prose, table
from probes.report.scaling_contents import Contents, contents
from probes.report.template import framed


def page(study: Study, trainings: Sequence[dict[str, Any]], warnings: Sequence[str]) -> str:
    """The whole file: what a report is where trainings are all there is."""
    texts = contents(study, trainings)
    parts = {"scaling": section(study, texts)}
    body = "{{warnings}}\n{{scaling}}"
    return framed(body, parts, warnings, texts.title, texts.headline, texts.facts)


def section(study: Study, texts: Contents) -> str:
    """Sentences, figure and tables."""
    story = "".join(f"<p>{prose(text)}</p>" for text in texts.paragraphs)
    return (
        '<section aria-labelledby="scaling"><h2 id="scaling">Loss against training compute</h2>'
        f"{story}<figure>{_picture(study, texts.alt)}<figcaption><p>{prose(texts.figure)}</p>"
        f"</figcaption></figure>{table(texts.laws)}"
        f"<details><summary>All trainings</summary>{table(texts.trials)}</details></section>"
    )


def _picture(study: Study, alt: str) -> str:
    buffer = io.BytesIO()
    scaling_figure.draw(study).savefig(buffer, format="png", dpi=160)
    data = base64.b64encode(buffer.getvalue()).decode()
    shown = escape(alt, quote=True)
    return f'<img alt="{shown}" style="width:100%" src="data:image/png;base64,{data}">'
