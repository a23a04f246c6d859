"""Rows as plain values: the lines of `rows.csv`, and what the page embeds and copies."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from statistics import median
from typing import Any

from probes.rows import Row

_PLAIN = (
    "probe", "sweep", "contestant", "size", "parameters", "context_length", "batch", "process",
    "status", "error", "peak_bytes", "peak_method", "state_bytes", "flops", "flops_dense",
    "energy_joules", "energy_method", "peak_flops", "max_batch", "budget_bytes",
    "precision", "seed", "commit", "load_before", "started", "command",
)  # fmt: skip
COLUMNS = (*_PLAIN, "seconds_median", "seconds", "token_seconds", "memory", "tried", "device",
           "backends", "versions", "config")  # fmt: skip


def flat(row: Row) -> list[Any]:
    """One row as plain values in the order of `COLUMNS`; lists and dicts as JSON."""
    packed = (
        list(row.seconds),
        list(row.token_seconds),
        row.memory,
        row.tried,
        row.device,
        row.backends,
        row.versions,
        row.config,
    )
    middle = median(row.seconds) if row.seconds else None
    plain = [getattr(row, name) for name in _PLAIN]
    return [*plain, middle, *(json.dumps(value, sort_keys=True) for value in packed)]


def csv_text(rows: Sequence[Row]) -> str:
    """All rows, one line each, after a line of column names."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(flat(row) for row in rows)
    return buffer.getvalue()
