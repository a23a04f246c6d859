"""Loss over training compute: points, fitted curves with their bands, dashed where extrapolated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from probes.analysis.estimators import LEVELS
from probes.analysis.scaling_study import BEYOND, Study
from probes.report import scaling_text
from probes.report.figures import GRID, INK, MUTED, dress, literal, palette

FILE = "scaling.png"
MOST_TIMES = 1000  # that one mark is larger than another


def save(study: Study, folder: Path) -> Path:
    """Write `FILE` into `folder`."""
    path = folder / FILE
    with path.open("wb") as file:
        draw(study).savefig(file, format="png", dpi=160)
    return path


def draw(study: Study) -> Figure:
    """One panel with every family."""
    figure = Figure(figsize=(8.2, 4.9), layout="constrained", facecolor="white")
    axes = figure.subplots()
    axes.set_xscale("log")
    colours = palette([scaling_text.series(family) for family in study.families])
    for family in study.families:
        colour = colours[family.label]
        sizes = np.array([trial.parameters for trial in family.trials])
        axes.scatter(
            [trial.flops for trial in family.trials],
            [trial.loss for trial in family.trials],
            s=18 * np.minimum(sizes / sizes.min(), MOST_TIMES) ** 0.5,  # larger for larger models
            marker="o" if family.recurrent else "s",
            color=colour, alpha=0.75, linewidths=0, zorder=3,
            label=None if family.law else literal(scaling_text.title(family)),
        )  # fmt: skip
        if family.law is None:
            pass
        else:
            low, high = family.span
            for start, end, dashes in ((low, high, "-"), (high, high * BEYOND, "--")):
                compute = np.geomspace(start, end, 60)
                best, drawn = family.curve(compute)
                named = literal(scaling_text.title(family)) if dashes == "-" else None
                axes.plot(compute, best, dashes, color=colour, linewidth=1.8, label=named)
                below, above = np.percentile(drawn, LEVELS, axis=0)
                axes.fill_between(compute, below, above, color=colour, alpha=0.16, linewidth=0)
    largest = max(family.span[1] for family in study.families)
    if any(family.law for family in study.families):
        axes.axvspan(largest, largest * BEYOND, color=GRID, alpha=0.35, linewidth=0)
        axes.text(
            largest * 1.06, 0.985, "extrapolated", transform=axes.get_xaxis_transform(),
            fontsize=8.5, color=MUTED, va="top",
        )  # fmt: skip
    title = "Validation loss against training compute"
    compute_axis = "training compute, operations (forward and backward)"
    dress(axes, title, compute_axis, f"validation loss, {scaling_text.UNIT}")
    axes.yaxis.set_major_locator(MaxNLocator(7))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.margins(x=0.02)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc="best")
    return figure
