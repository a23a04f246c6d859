"""metrics.jsonl: every number that is logged, one JSON object per line, whoever else gets it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.parsing import Line, Missing, read_lines


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics file; a line that is none, as the last one after a crash, is left out.

    Raises `core.parsing.Unreadable` if something else lies in its place.
    """
    try:
        return [line.value for line in read_lines(path) if line.value and not problem_of(line)]
    except Missing:
        return []


def problem_of(line: Line) -> str:
    """Why a line is no row of a metrics file; empty for one that is."""
    if line.value is None:
        return line.problem
    step = line.value.get("step")
    if type(step) is not int or not 0 <= step < 1 << 63:
        return f"no row: its step is {step!r:.40}"
    for key, value in line.value.items():
        if value is not None and type(value) not in (int, float):
            return f"no row: {key[:40]!r} is no number"
    return ""
