"""The still pictures: one PNG per group of measures, and `crossover.png` for a README."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from probes import compare, words
from probes.collect import Arm, Material
from probes.compare import Curve, Finding, Measure

INK, MUTED, GRID = "#1d2433", "#667085", "#e4e7ec"
RECURRENT = ("#0b6e75", "#3c9a6b", "#2f5fb3", "#7a4fb0")
ATTENTION = ("#c2491d", "#b8860b", "#a83259", "#7d5a3c")
_BY_KEY = {measure.key: measure for measure in compare.MEASURES}
FILES = {
    "train_time.png": ("train", "train_fixed_tokens"),
    "prefill.png": ("prefill", "prefill_fixed_tokens"),
    "decode.png": ("decode",),
    "memory.png": ("memory", "state"),
    "crossover.png": ("train", "memory"),
}


def palette(arms: Sequence[Arm]) -> dict[str, str]:
    """A colour per arm label: cool for recurrent, warm for attention."""
    cool = [arm.label for arm in arms if arm.recurrent]
    warm = [arm.label for arm in arms if not arm.recurrent]
    return {
        label: shades[place % len(shades)]
        for labels, shades in ((cool, RECURRENT), (warm, ATTENTION))
        for place, label in enumerate(labels)
    }


def draw_all(material: Material, found: Sequence[Finding], folder: Path) -> list[Path]:
    """Write every picture that has a curve into `folder`."""
    paths = []
    for file, keys in FILES.items():
        measures = [_BY_KEY[key] for key in keys if compare.curves(material, _BY_KEY[key])]
        if measures:
            figure = _panels(material, found, measures, overview=file == "crossover.png")
            paths.append(_save(figure, folder / file))
    return paths


def _save(figure: Figure, path: Path) -> Path:
    with path.open("wb") as file:
        figure.savefig(file, format="png", dpi=160)
        file.flush()
        os.fsync(file.fileno())
    return path


def _panels(
    material: Material, found: Sequence[Finding], measures: Sequence[Measure], overview: bool
) -> Figure:
    figure = Figure(figsize=(5.4 * len(measures), 4.3), layout="constrained", facecolor="white")
    colours = palette(material.arms)
    grid = figure.subplots(1, len(measures), squeeze=False)
    for axes, measure in zip(grid[0], measures, strict=True):
        _panel(axes, material, measure, colours)
        own = [one for one in found if one.measure == measure and one.kind == "crosses"]
        for one in own if len(material.pairs) == 1 else []:
            _mark_crossing(axes, one)
        if overview and measure.key == "memory" and compare.curves(material, _BY_KEY["state"]):
            _add_state(axes, material, colours)
    row = material.rows[0]
    where = f"{row.device.get('name')}, {row.device.get('threads')} threads, {row.precision}"
    figure.supxlabel(f"{where}, commit {row.commit[:12]}", fontsize=7.5, color=MUTED)
    return figure


def _panel(axes: Axes, material: Material, measure: Measure, colours: dict[str, str]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    ends = []
    for one in compare.curves(material, measure):
        colour = colours[one.arm.label]
        _draw_curve(axes, one, colour, "-")
        if one.measured:
            last = max(one.measured.values(), key=lambda point: point.length)
            ends.append((last.length, last.median, words.name(one.arm), colour))
    _dress(axes, measure)
    for one in compare.curves(material, measure):
        _draw_failures(axes, one, colours[one.arm.label])
    _label_ends(axes, ends)


def _draw_curve(axes: Axes, one: Curve, colour: str, dashes: str) -> None:
    points = [one.measured[length] for length in sorted(one.measured)]
    lengths = [point.length for point in points]
    marker = "o" if one.arm.recurrent else "s"
    if any(len(point.values) > 1 for point in points):
        low, high = zip(*(point.quartiles for point in points), strict=True)
        axes.fill_between(lengths, low, high, color=colour, alpha=0.18, linewidth=0)
    medians = [point.median for point in points]
    axes.plot(
        lengths, medians, dashes, marker=marker, markersize=4.5, color=colour, linewidth=1.8
    )


def _draw_failures(axes: Axes, one: Curve, colour: str) -> None:
    """A cross at the top of the panel with the reason: a failed point is data."""
    for point in one.failed:
        axes.plot(
            point.length, 0.97, "x", color=colour, markersize=7, markeredgewidth=2,
            transform=axes.get_xaxis_transform(), clip_on=False,
        )  # fmt: skip
        axes.annotate(
            point.status, (point.length, 0.97), xycoords=axes.get_xaxis_transform(),
            xytext=(0, -13), textcoords="offset points", ha="center", fontsize=8, color=colour,
        )  # fmt: skip


def _dress(axes: Axes, measure: Measure) -> None:
    unit = "bytes" if measure.unit == "B" else "time"
    axes.set_title(measure.title, loc="left", fontsize=11, fontweight="bold", color=INK)
    axes.set_xlabel("context length, tokens", fontsize=9, color=MUTED)
    kind = "bytes per sequence" if unit == "bytes" else f"time per {measure.per}"
    axes.set_ylabel(kind, fontsize=9, color=MUTED)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRID)
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.tick_params(colors=MUTED, labelsize=8.5, length=0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: words.tokens(round(value))))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: words.quantity(value, measure.unit))
    )
    axes.yaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.06, y=0.12)


def _label_ends(axes: Axes, ends: list[tuple[int, float, str, str]]) -> None:
    """Names beside the last points, pushed apart where they would touch."""
    axes.figure.canvas.draw()
    place = None
    for x, y, text, colour in sorted(ends, key=lambda end: end[1]):
        wanted = axes.transData.transform((x, y))[1]
        actual = wanted if place is None else max(wanted, place + 17 * axes.figure.dpi / 100)
        place = actual
        axes.annotate(
            text, (x, y), xytext=(8, (actual - wanted) * 72 / axes.figure.dpi),
            textcoords="offset points", va="center", fontsize=9, fontweight="bold", color=colour,
            annotation_clip=False,
        )  # fmt: skip


def _mark_crossing(axes: Axes, finding: Finding) -> None:
    crossing = finding.crossings[0]
    if crossing.low is not None and crossing.high is not None:
        axes.axvspan(crossing.low, crossing.high, color=INK, alpha=0.08, linewidth=0)
    axes.axvline(crossing.length, color=INK, linewidth=1, linestyle=(0, (3, 2)))
    axes.annotate(
        f"crossover\n{words.tokens(crossing.length)}", (crossing.length, 0.02),
        xycoords=axes.get_xaxis_transform(), xytext=(5, 0), textcoords="offset points",
        fontsize=8.5, color=INK, va="bottom",
    )  # fmt: skip


def _add_state(axes: Axes, material: Material, colours: dict[str, str]) -> None:
    """Bytes carried between tokens, dashed, in the memory panel of the overview."""
    ends = []
    for one in compare.curves(material, _BY_KEY["state"]):
        _draw_curve(axes, one, colours[one.arm.label], "--")
        if one.measured:
            last = max(one.measured.values(), key=lambda point: point.length)
            ends.append((last.length, last.median, "state", colours[one.arm.label]))
    _label_ends(axes, ends)
    axes.set_title("Peak training memory, and state (dashed)", loc="left", fontsize=11,
                   fontweight="bold", color=INK)  # fmt: skip
