"""Metrics of one point beside its curves: tokens a second, use of the device, energy, tails.

A function here takes the rows of a point, one for each process, and counts what a curve counts
(`probes.analysis.crossovers`): nothing of a point of which a process failed, no time of a disturbed
process, and the lower quartile over processes of those over their repeats.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from probes.analysis.bootstrap import centre, typical
from probes.rows import OK, Row


def counted(rows: Sequence[Row]) -> list[Row]:
    """Those whose times count; none of a point that failed."""
    if any(row.status != OK for row in rows):
        return []
    return [row for row in rows if row.seconds and not row.is_disturbed]


def seconds(rows: Sequence[Row], of: Callable[[Row], float] = lambda row: 1) -> float | None:
    """The time of one entry of `seconds`, or of one unit where an entry is `of(row)` units."""
    timed = counted(rows)
    if not timed:
        return None
    return centre({row.process: [repeat / of(row) for repeat in row.undisturbed] for row in timed})


def tokens(row: Row) -> int:
    """Tokens of one entry of `seconds`."""
    single = row.probe in ("decode", "max_batch")
    return (row.max_batch or row.batch) * (1 if single else row.context_length)


def tokens_per_second(rows: Sequence[Row]) -> float | None:
    """At the time that the curve has."""
    per_token = seconds(rows, tokens)
    return None if per_token is None else 1 / per_token


def utilisation(rows: Sequence[Row], dense: bool = False) -> float | None:
    """MFU: operations done per second over the highest rate measured on this device.

    `None` where no rate was measured, no operations are counted or no time counts. `dense` counts
    every query against every key, the convention of most published figures.
    """
    peak = max((row.peak_flops or 0 for row in rows), default=0)
    if not peak or not all(_work(row, dense) for row in counted(rows)):
        return None
    per_operation = seconds(rows, lambda row: _work(row, dense))
    return None if per_operation is None else 1 / per_operation / peak


def _work(row: Row, dense: bool) -> int:
    return (row.flops_dense if dense else row.flops) or 0


def joules_per_token(rows: Sequence[Row]) -> float | None:
    """Energy of the whole device; `None` without a counter or an undisturbed process."""
    energies = [
        row.energy_joules / tokens(row) for row in counted(rows) if row.energy_joules is not None
    ]
    return typical(energies) if energies else None


def token_percentiles(rows: Sequence[Row]) -> tuple[float, float] | None:
    """p50 and p95 in seconds over all single tokens of what was left undisturbed, taken together:
    the tail of a user's wait, where a curve has the quartile of repeats."""
    repeats = [
        part
        for row in counted(rows)
        if row.token_seconds
        for part, bad in zip(
            np.array_split(np.array(row.token_seconds), len(row.seconds)),
            row.disturbed or [False] * len(row.seconds),
            strict=True,
        )
        if not bad
    ]
    if not repeats:
        return None
    middle, slow = np.percentile(np.concatenate(repeats), [50, 95])
    return float(middle), float(slow)


def figures(rows: Sequence[Row]) -> dict[str, float]:
    """All known metrics of a point, by name: what a wandb run logs at its context length."""
    percentiles = token_percentiles(rows) or (None, None)
    values = {
        "seconds": seconds(rows),
        "tokens_per_second": tokens_per_second(rows),
        "p50_seconds": percentiles[0],
        "p95_seconds": percentiles[1],
        "mfu": utilisation(rows),
        "joules_per_token": joules_per_token(rows),
    }
    if all(row.status == OK for row in rows):  # others disturb no memory and no count
        values |= {name: _counted(rows, name) for name in ("peak_bytes", "state_bytes")}
        values |= {name: _counted(rows, name) for name in ("flops", "flops_dense")}
        batches = [row.max_batch for row in rows if row.max_batch]
        values["max_batch"] = min(batches, default=None)
    return {name: value for name, value in values.items() if value is not None}


def _counted(rows: Sequence[Row], name: str) -> float | None:
    values = [getattr(row, name) for row in rows]
    counts = [value for value in values if value]
    return typical(counts) if counts else None
