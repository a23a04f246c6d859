"""Tables as plain text, and what is written in HTML: text, tables, the colour of a series.

What a page shows is made as text first, so that `crossover.json` can hold the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from html import escape
from typing import Any

from probes.analysis.dataset import Series
from probes.report import phrases


@dataclass(frozen=True)
class Line:
    """A row of a table; `head` names it, and the first `numbers` of the cells are numbers."""

    head: str
    cells: tuple[str, ...]
    numbers: int = 0
    series: Series | None = None
    """Whose spot of colour stands before the head."""
    css: str = ""


@dataclass(frozen=True)
class Table:
    """What stands above it, and its lines; a heading that starts with `#` is over numbers."""

    caption: str
    headings: tuple[str, ...] = ()
    lines: tuple[Line, ...] = ()

    def plain(self) -> dict[str, Any]:
        """The table as the page shows it."""
        return {
            "caption": self.caption,
            "headings": [heading.removeprefix("#") for heading in self.headings if self.lines],
            "rows": [[line.head, *line.cells] for line in self.lines],
        }


def plain(value: Any) -> Any:
    """JSON values of dataclasses and tables within one another."""
    if isinstance(value, Table):
        return value.plain()
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def prose(text: str) -> str:
    """Escaped text whose numbers stay on one line with their units, and names in one piece."""
    kept = re.sub(r"(\d) (?=%|(?:[µm]?s|min|[KMG]?i?B|tokens|times)\b)", "\\1\u00a0", escape(text))
    return re.sub(r"\bRWKV-\d", r'<span class="nowrap">\g<0></span>', kept)


def table(content: Table, all_series: Sequence[Series] = ()) -> str:
    """A table; its caption alone where it has no lines. `series` say which colour is whose."""
    if not content.lines:
        return f"<p>{prose(content.caption)}</p>" if content.caption else ""
    cells = "".join(
        f'<th scope="col" class="n">{escape(text[1:])}</th>'
        if text.startswith("#")
        else f'<th scope="col">{prose(text)}</th>'
        for text in content.headings
    )
    note = f'<p class="note">{prose(content.caption)}</p>' if content.caption else ""
    return (
        f'{note}<div class="scroll" tabindex="0"><table><thead><tr>{cells}</tr></thead>'
        f"<tbody>{''.join(_row(line, all_series) for line in content.lines)}</tbody></table></div>"
    )


def _row(line: Line, all_series: Sequence[Series]) -> str:
    spot = ""
    if line.series:
        css = "" if line.series.recurrent else ' class="square"'
        spot = f'<i{css} style="--c:var(--{colour(all_series, line.series)})"></i>'
    body = "".join(
        f'<td class="n">{escape(cell)}</td>' if place < line.numbers else f"<td>{prose(cell)}</td>"
        for place, cell in enumerate(line.cells)
    )
    return f'<tr class="{line.css}"><th scope="row">{spot}{escape(line.head)}</th>{body}</tr>'


def colour(all_series: Sequence[Series], series: Series) -> str:
    """Name of the CSS colour of a series: cool ones for recurrent, warm ones for attention."""
    family = [other for other in all_series if other.recurrent == series.recurrent]
    return f"{'cool' if series.recurrent else 'warm'}-{family.index(series) % 4}"


def of_series(series: Series, cells: Sequence[str], numbers: int) -> Line:
    """A line that a series's name heads."""
    return Line(phrases.name(series), tuple(cells), numbers, series)
