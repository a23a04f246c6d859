"""`trainings.json` and `trainings.csv`: what a page of trainings says, and every training."""

from __future__ import annotations

import json
from typing import Any

from probes.analysis.costs import Price
from probes.analysis.training_curves import currency_of
from probes.analysis.training_grid import Arm, Grid, Setting, compute
from probes.report.trainings_contents import Contents, cost_of, last_figure

COLUMNS = (
    "name", "model", "size", "setting", "seed", "ended", "tokens", "compute", "seconds", "val_loss",
    "val_bits_per_byte", "data_fingerprint", "folder", "searched", "cost",
    "currency", "joules",
)  # fmt: skip
"""`compute` counts operations, forward and backward; `searched` is JSON, the searched keys;
`cost` is in `currency`, at the report's price or as the training's own rows say, and `joules` are
those of its last row that has any."""


def rows_of(grid: Grid, price: Price | None) -> list[list[Any]]:
    """One row for every training under `COLUMNS`; None where a figure is not known."""
    return [
        [
            run.name, run.label, run.size, setting.name, run.seed, run.how_it_ended,
            run.figure("tokens"), compute(run), run.figure("train_seconds"),
            run.figure("val_loss"), run.figure("val_bits_per_byte"), arm.corpus, str(run.path),
            json.dumps(setting.values, sort_keys=True, default=str),
            (cost := cost_of(run, price)), None if cost is None else currency_of([run], price),
            last_figure(run, "train/joules"),
        ]
        for arm in grid.arms
        for setting in arm.settings
        for run in setting.runs
    ]  # fmt: skip


def json_text(grid: Grid, contents: Contents, price: Price | None) -> str:
    """The record: trainings, settings, searches, comparisons, and the page with its charts."""
    record = {
        "measure": dict(zip(("field", "unit", "rows"), grid.measure, strict=True)),
        "keys": list(grid.keys),
        "trainings": [dict(zip(COLUMNS, row, strict=True)) for row in rows_of(grid, price)],
        "arms": [_arm(arm) for arm in grid.arms],
        "pairs": [
            {
                "lower": pair.lower.name,
                "higher": pair.higher.name,
                "obstacles": list(pair.obstacles),
                **pair.verdict.plain(),
            }
            for pair in grid.pairs
        ],
        "page": contents.plain(),
    }
    return json.dumps(record, indent=1, allow_nan=False, default=str) + "\n"


def _arm(arm: Arm) -> dict[str, Any]:
    return {
        "name": arm.name,
        "parameters": arm.parameters,
        "search": arm.search.plain(),
        "settings": [_setting(one) for one in arm.settings],
        "ranked": [one.name for one in arm.ranked],
        "at_the_edge": arm.at_the_edge,
    }


def _setting(setting: Setting) -> dict[str, Any]:
    return {
        "name": setting.name,
        "values": setting.values,
        "runs": [run.name for run in setting.runs],
        "counted": [run.name for run in setting.counted],
        "losses": list(setting.losses),
        "mean": setting.mean,
        "band": setting.band,
    }
