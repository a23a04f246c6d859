"""A plan as a table for the terminal and as plain data for `plan.json`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from core import units
from probes.plan.plan import Plan, Planner, Row
from probes.rows import label_of


def print_plan(planner: Planner, plan: Plan, console: Console) -> None:
    """One line per strategy, then what the numbers rest on."""
    conf, machine, sizes = planner.conf, planner.machine, plan.sizes
    console.print(
        f"{name(planner)}, {sizes.parameters:,} parameters, {plan.length:,} tokens, "
        f"{plan.sequences} sequence(s) per device, {conf.precision}, on {conf.devices:,} x "
        f"{machine.title} with {units.device_bytes(machine.memory_bytes)} each",
        highlight=False,
        soft_wrap=True,
    )
    parts = ("weights", "gathered", "optim.", "grads", "activ.", "total", "fits")
    memory = _table("memory of one device, GB", parts)
    headings = ["step", "sent, GB", "waits", "tokens/s", "MFU", "cost/step"]
    headings += ["training", "cost"] if conf.tokens else []
    time = _table("time and cost", headings)
    for row in plan.rows:
        held = row.memory
        every = (held.weights, held.gathered, held.optimizer, held.gradients, held.activations)
        sizes_gb = [units.significant(size / 1e9) for size in (*every, held.total)]
        _add(memory, row, [*sizes_gb, "yes" if row.fits else "no"])
        figures = [
            units.seconds(row.step_s),
            units.significant(row.traffic_bytes / 1e9),
            units.seconds(row.exposed_s),
            units.significant(row.tokens_per_s),
            f"{100 * row.mfu:.0f} %",
            money(planner, row.cost_per_step),
        ]
        if row.training_s is not None:
            figures += [duration(row.training_s), money(planner, row.cost)]
        _add(time, row, figures)
    console.print(memory)
    console.print(time)
    for line in notes(planner, plan):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _table(title: str, headings: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    for heading in ("strategy", "saving"):
        table.add_column(heading, no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _add(table: Table, row: Row, figures: list[str]) -> None:
    table.add_row(row.strategy, row.variant, *figures, style=None if row.fits else "dim")


def notes(planner: Planner, plan: Plan) -> list[str]:
    """What stands below the table: the best row, failures, sources, what is extrapolated."""
    lines = []
    if plan.best:
        lines.append(f"fastest that fits: {plan.best.strategy}, {plan.best.variant}")
    risk = planner.reliability(plan.sizes)
    lines.append(
        f"failures: one every {duration(risk.failure_every)} ({planner.conf.mtbf_hours:,.0f} h per "
        f"device); save every {duration(risk.interval)} ({duration(risk.save)} each); "
        f"{100 * risk.lost:.2g} % of the time is lost"
    )
    if planner.calibration:
        lines.append(f"measured now: {planner.calibration.model}")
    lines += [f"{key}: {value}" for key, value in planner.machine.sources.items()]
    reasons = planner.extrapolated(plan)
    lines.append(f"extrapolated: {'; '.join(reasons)}" if reasons else "extrapolated: nothing")
    return lines


def as_json(planner: Planner, plans: list[Plan]) -> dict[str, Any]:
    """Everything of `plan.json`: seconds, bytes, and money in the machine's currency."""
    return {
        "model": asdict(planner.spec),
        "machine": asdict(planner.machine),
        "calibration": asdict(planner.calibration) if planner.calibration else None,
        "precision": planner.conf.precision,
        "devices": planner.conf.devices,
        "segment": planner.conf.segment,
        "tokens": planner.conf.tokens,
        "plans": [
            {
                "length": plan.length,
                "sequences_per_device": plan.sequences,
                "sizes": asdict(plan.sizes),
                "extrapolated": planner.extrapolated(plan),
                "best": plan.rows.index(plan.best) if plan.best else None,
                "reliability": asdict(planner.reliability(plan.sizes)),
                "rows": [
                    {**asdict(row), "memory": {**asdict(row.memory), "total": row.memory.total}}
                    for row in plan.rows
                ],
            }
            for plan in plans
        ],
    }


def name(planner: Planner) -> str:
    """`rwkv7 7b`."""
    return f"{label_of(planner.spec)} {planner.spec.size}"


def duration(seconds: float) -> str:
    """Seconds up to ten minutes, then minutes, hours and days."""
    for length, unit in ((86400, "days"), (3600, "h")):
        if seconds >= 2 * length:
            return f"{units.significant(seconds / length)} {unit}"
    return units.seconds(seconds)


def money(planner: Planner, value: float | None) -> str:
    """A price, or that none was stated."""
    return "no price" if value is None else f"{units.significant(value)} {planner.machine.currency}"
