"""The map of crossover lengths by machine: this report's beside those of others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor, log2
from pathlib import Path
from typing import Any

import rich.table
from rich.console import Console

from core import units
from core.interval import Interval
from probes.analysis.metrics import BY_KEY
from probes.report import phrases
from probes.report.foreign_reports import Foreign, crossings
from probes.report.markup import Line, Table
from probes.report.winning_ranges import Ranges, Track

HERE = "this report"
"""What stands in the map in the place of a digest."""
NONE = {"always": "at every length", "never": "at no length", "equal": "nowhere: equal"}
"""Where the recurrent model is cheaper, by the kind of a comparison without a crossover."""
NOTE = (
    "The bar marks from which context length on the recurrent model is the cheaper one on that "
    "machine, the light hatching its 95 % interval. Context length in tokens."
)


@dataclass(frozen=True)
class Others:
    """Reports of others, and why some that were named are left out."""

    reports: tuple[Foreign, ...] = ()
    left_out: tuple[str, ...] = ()


def entries(own: Mapping[str, Any], others: Others) -> list[dict[str, Any]]:
    """The crossovers of this report's summary and of the others', those of one measure and pair of
    models together, this report's first; `digest` tells reports apart. Paths are left out."""
    here = Foreign(Path(HERE), {**own, "digest": HERE})
    found = [
        {key: value for key, value in one.items() if key != "report"}
        for one in crossings([here, *others.reports])
    ]
    place = {key: number for number, key in enumerate(BY_KEY)}
    return sorted(
        found,
        key=lambda one: (place[one["measure"]], one["models"], one["digest"] != HERE),
    )


def table(found: Sequence[dict[str, Any]], others: Others) -> Table:
    """A line for each crossover of each machine."""
    caption = (
        "From this context length on the recurrent model is the cheaper one, machine by machine, "
        "as far as it is decided. Reports of others are believed as far as their digest goes: it "
        "says that nothing was changed, and not who measured."
    )
    if others.left_out:
        caption += f" {units.counted(len(others.left_out), 'report')} left out."
    headings = (
        "measure", "#cheaper from, tokens", "95 % interval", "models", "device", "threads",
        "precision", "commit", "date", "report",
    )  # fmt: skip
    lines = []
    for one in found:
        interval = (
            f"{units.tokens(one['low'])} to {units.tokens(one['high'])}" if one["low"] else ""
        )
        cells = (
            length_text(one), interval, " / ".join(one["models"]), one["device"], one["threads"],
            one["precision"], one["commit"], one["date"], one["digest"][:12],
        )  # fmt: skip
        lines.append(Line(BY_KEY[one["measure"]].title, cells, 1))
    return Table(caption, headings, tuple(lines))


def length_text(entry: Mapping[str, Any]) -> str:
    """`512`, or in words that there is none."""
    if entry["length"] is None:
        return NONE.get(entry["kind"], "no change")
    return units.tokens(entry["length"])


def show_crossings(found: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print one line for each crossover, those of one measure together."""
    if not found:
        return
    shown = rich.table.Table("measure", "models", "device", "threads", "cheaper from, tokens")
    for one in sorted(found, key=lambda one: (one["measure"], one["models"])):
        text = length_text(one)
        if one["low"] is not None:
            text += f" ({one['low']:.4g} to {one['high']:.4g})"
        shown.add_row(
            one["measure"], " / ".join(one["models"]), one["device"], one["threads"], text
        )
    console.print(shown)


def ranges(found: Sequence[dict[str, Any]]) -> Ranges | None:
    """A track for each crossover with a length, over powers of two that hold all intervals."""
    drawn = [one for one in found if one["length"] is not None]
    if not drawn:
        return None
    ends = [one[key] or one["length"] for one in drawn for key in ("low", "high", "length")]
    first, last = floor(log2(min(ends))), ceil(log2(max(ends)))
    last = max(last, first + 1)
    step = -(-(last - first) // 7)
    tracks = []
    titled = ""
    for one in drawn:
        title = BY_KEY[one["measure"]].title
        what = ", ".join(
            filter(None, (one["device"] or "a machine without a name", one["precision"]))
        )
        what = f"{HERE}: {what}" if one["digest"] == HERE else what
        interval = Interval(one["length"], one["low"], one["high"])
        said = f"{' / '.join(one['models'])}: {units.tokens(one['length'])} tokens"
        crossing = {
            "length": one["length"], "low": one["low"], "high": one["high"],
            "text": units.tokens(one["length"]),
        }  # fmt: skip
        if interval.ends:
            said += f" ({phrases.interval(interval).removeprefix(phrases.INTERVAL)})"
        track = Track(title, what, f"{title}, {what}: {said}", (), (crossing,))
        tracks.append(replace(track, title="") if title == titled else track)
        titled = title
    ticks = tuple(2**power for power in range(first, last + 1, step))
    return Ranges(NOTE, (*ticks, *((2**last,) if ticks[-1] < 2**last else ())), tuple(tracks))
