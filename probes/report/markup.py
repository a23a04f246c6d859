"""Tables as plain text, which the page and `crossover.json` share, and the colours of series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
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


def colour(all_series: Sequence[Series], series: Series) -> str:
    """Name of the CSS colour of a series: cool ones for recurrent, warm ones for attention."""
    family = [other for other in all_series if other.recurrent == series.recurrent]
    return f"{'cool' if series.recurrent else 'warm'}-{family.index(series) % 4}"


def of_series(series: Series, cells: Sequence[str], numbers: int) -> Line:
    """A line that a series's name heads."""
    return Line(phrases.name(series), tuple(cells), numbers, series)
