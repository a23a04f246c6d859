"""metrics.jsonl: every number that is logged, one JSON object per line, whoever else gets it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.parsing import Line, Missing, parse_json, read_lines, regular

TAIL = 1 << 16  # bytes that `last_rows` reads


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics file; a line that is none, as the last one after a crash, is left out.

    Raises `core.parsing.Unreadable` if something else lies in its place.
    """
    try:
        return [line.value for line in read_lines(path) if line.value and not problem_of(line)]
    except Missing:
        return []


def last_rows(path: Path) -> list[dict[str, Any]]:
    """The last rows of a metrics file, as many as its end holds; like `read_rows`, but as quick for
    a long file as for a short one."""
    try:
        with regular(path) as file:
            size = file.seek(0, 2)
            file.seek(max(size - TAIL, 0))
            lines = file.read(TAIL).splitlines()
    except Missing:
        return []
    rows = []
    for number, text in enumerate(lines[size > TAIL :]):
        try:
            line = Line(number, parse_json(text.decode()))
        except ValueError:  # of decoding too
            continue
        if isinstance(line.value, dict) and not problem_of(line):
            rows.append(line.value)
    return rows


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
