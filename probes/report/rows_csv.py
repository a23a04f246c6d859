"""Rows as plain values: the lines of `rows.csv`, and what the page embeds and copies."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from typing import Any

from probes.analysis.bootstrap import typical
from probes.rows import Row

_PLAIN = (
    "probe", "sweep", "model", "size", "parameters", "context_length", "batch", "process",
    "status", "error", "peak_bytes", "peak_method", "state_bytes", "flops", "flops_dense",
    "energy_joules", "energy_method", "peak_flops", "max_batch", "budget_bytes",
    "precision", "seed", "commit", "load_before", "started", "command", "visit", "threads_chosen",
    "unmatched", "recurrent", "title",
)  # fmt: skip
_PACKED = (
    "seconds", "token_seconds", "memory", "tried", "device", "backends", "versions", "config",
    "options", "weights", "disturbed", "cpu_seconds", "involuntary", "waited", "others", "pressure",
    "steal",
)  # fmt: skip
FORMULAS = ("=", "+", "-", "@", "\t", "\r")
COLUMNS = (*_PLAIN, "is_disturbed", "seconds_lower_quartile", *_PACKED)
"""`is_disturbed`: the times of this process take no part in a curve. `seconds_lower_quartile` is of
the repeats that count (undisturbed ones, unless too few were), as the curves take it."""


def flat(row: Row) -> list[Any]:
    """One row as plain values in the order of `COLUMNS`; lists and dicts as JSON."""
    value = typical(row.undisturbed) if row.seconds else None
    plain = [getattr(row, name) for name in _PLAIN]
    packed = [json.dumps(getattr(row, name), sort_keys=True) for name in _PACKED]
    return [*plain, row.is_disturbed, value, *packed]


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """All rows, one line each, after a line of column names.

    Rows may come from anywhere: a text that a spreadsheet would compute as a formula gets an
    apostrophe in front.
    """
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow(
            f"'{value}" if isinstance(value, str) and value.startswith(FORMULAS) else value
            for value in row
        )
    return buffer.getvalue()
