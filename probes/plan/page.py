"""The curve over context lengths: measured points solid, predictions dashed and labelled."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from core import units
from core.errors import UserError
from probes.analysis import derived_metrics
from probes.plan import tables
from probes.plan.plan import CHECKPOINTING, PLAIN, SEGMENTS, Plan, Planner, Row
from probes.report.figures import ATTENTION, GRID, INK, MUTED, RECURRENT, literal
from probes.report.template import render
from probes.rows import OK, label_of, read_rows
from probes.rows import Row as Measured

PRECISIONS = {"float32": "32-true", "bfloat16": "bf16-mixed"}  # of probe rows, in training
Quantity = Callable[[Row], float]


def measured_points(planner: Planner, runs: Sequence[Path]) -> list[Measured]:
    """Training rows of this model, batch and precision. Raises `UserError` without any."""
    every = [row for run in runs for row in read_rows(run / "probes.jsonl")]
    rows = list({row.key: row for row in every}.values())
    matching = [
        row
        for row in rows
        if row.probe == "train"
        and row.status == OK
        and row.batch == planner.sequences
        and row.config == planner.spec.config
        and PRECISIONS.get(row.precision) == planner.conf.precision
        and row.device["kind"] == planner.machine.device
    ]
    if runs and not matching:
        kind = planner.machine.device.upper()
        raise UserError(
            f"runs={[str(run) for run in runs]}: none of {units.counted(len(rows), 'row')} is a "
            f"training of {tables.name(planner)} with vocabulary {planner.conf.data.vocab_size}, "
            f"{units.counted(planner.sequences, 'sequence')} and {planner.conf.precision} on a "
            f"{kind if kind == 'CPU' else f'{kind} device'}: probe that, or leave runs= out"
        )
    return matching


def page(planner: Planner, plans: Sequence[Plan], measured: Sequence[Measured]) -> str:
    """One HTML file that needs nothing else."""
    title = f"Plan: {tables.name(planner)} on {planner.conf.devices:,} x {planner.machine.title}"
    notes = [
        "Dashed curves are predictions; where marked, they are extrapolated beyond what was "
        "measured. Filled points are measured. Curves show one device's forward and backward pass "
        "with whole weights and no optimizer, as the probes measure it; the table, the fastest "
        "strategy that fits, with everything.",
        *tables.notes(planner, plans[-1]),
    ]
    rows = []
    for plan in plans:  # the fastest strategy that fits, under `HEADINGS`
        cells = ["nothing fits", "", "", "", "", ""]
        if best := plan.best:
            cells = [
                best.strategy,
                best.variant,
                units.device_bytes(best.memory.total),
                units.seconds(best.step_s),
                units.significant(best.tokens_per_s),
                tables.money(planner, best.cost_per_step),
            ]
        source = "extrapolated" if planner.extrapolated(plan) else "predicted"
        rows.append([units.tokens(plan.length), *cells, source])
    return render(
        "plan.html",
        title=title,
        svg=_svg(planner, plans, measured),
        headings=HEADINGS,
        rows=rows,
        notes=notes,
        ink=INK,
        grid=GRID,
        muted=MUTED,
    )


HEADINGS = (
    "context length", "strategy", "saving", "memory per device", "step", "tokens/s",
    "cost per step", "",
)  # fmt: skip


def _svg(planner: Planner, plans: Sequence[Plan], measured: Sequence[Measured]) -> str:
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "plan"}):
        figure = Figure(figsize=(11, 4.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        # Times as the report has them, of either sweep: the batch is that of the plan.
        points: dict[int, list[Measured]] = {}
        for row in measured:
            points.setdefault(row.context_length, []).append(row)
        times = [
            (length, seconds)
            for length, rows in points.items()
            if (seconds := derived_metrics.seconds(rows)) is not None
        ]
        _panel(left, planner, plans, times, lambda row: row.compute_s, units.seconds)
        left.set_title("Forward and backward", loc="left", color=INK, fontweight="bold")
        peaks = [(row.context_length, float(row.peak_bytes or 0)) for row in measured]
        _panel(
            right, planner, plans, peaks,
            lambda row: row.memory.total - row.memory.optimizer, units.device_bytes,
        )  # fmt: skip
        right.set_title("Memory without optimizer", loc="left", color=INK, fontweight="bold")
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue().partition("<svg")[1] + text.getvalue().partition("<svg")[2]


def _panel(
    axes: Axes,
    planner: Planner,
    plans: Sequence[Plan],
    measured: Sequence[tuple[int, float]],
    quantity: Quantity,
    text: Callable[[float], str],
) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    shades = RECURRENT if planner.demand.recurrent else ATTENTION
    beyond = any(planner.extrapolated(plan) for plan in plans)
    word = "extrapolated" if beyond else "predicted"
    for variant, colour in zip((PLAIN, CHECKPOINTING, SEGMENTS), shades, strict=False):
        points = [
            (plan.length, quantity(row))
            for plan in plans
            for row in plan.rows
            if row.strategy == "one device" and row.variant == variant
        ]
        if points:
            axes.plot(*zip(*points, strict=True), "--", color=colour, label=f"{variant}, {word}")
    if measured:
        points = sorted(measured)
        who = literal(label_of(planner.spec))
        axes.plot(*zip(*points, strict=True), "o-", color=INK, label=f"{who}, measured")
    axes.set_xlabel("context length, tokens", color=MUTED)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: units.tokens(round(value))))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.tick_params(colors=MUTED, labelsize=8.5, length=0)
    axes.legend(frameon=False, fontsize=8.5, labelcolor=INK)
