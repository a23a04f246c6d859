"""The still pictures: one PNG per group of measures, and `crossover.png` for a README."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from core import units
from probes.analysis.analysis import Analysis
from probes.analysis.crossovers import Curve
from probes.analysis.dataset import Dataset, Series
from probes.analysis.metrics import BY_KEY, Measure
from probes.report import phrases
from probes.rows import NOT_TRIED

INK, MUTED, GRID = "#1d2433", "#667085", "#e4e7ec"
End = tuple[int, float, str, str]
"""The last point of a curve, its name and its colour."""
LONGEST = 120  # characters of a name
RECURRENT = ("#0b6e75", "#3c9a6b", "#2f5fb3", "#7a4fb0")
ATTENTION = ("#c2491d", "#b8860b", "#a83259", "#7d5a3c")
FILES = {
    "train_time.png": ("train", "train_fixed_tokens"),
    "prefill.png": ("prefill", "prefill_fixed_tokens"),
    "decode.png": ("decode", "decode_p95"),
    "generation.png": ("ttft", "generate"),
    "memory.png": ("memory", "state"),
    "memory_inference.png": ("memory_prefill", "memory_decode"),
    "largest_batch.png": ("max_batch", "max_batch_time", "max_batch_train"),
    "parts.png": ("layer", "operator"),
    "crossover.png": ("train", "memory"),
}


def palette(all_series: Sequence[Series]) -> dict[str, str]:
    """A colour per series label: cool for recurrent, warm for attention."""
    cool = [series.label for series in all_series if series.recurrent]
    warm = [series.label for series in all_series if not series.recurrent]
    return {
        label: shades[place % len(shades)]
        for labels, shades in ((cool, RECURRENT), (warm, ATTENTION))
        for place, label in enumerate(labels)
    }


def literal(text: str) -> str:
    """A name that Matplotlib draws as it is: not as mathematics, nor without end."""
    return (text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…").replace("$", r"\$")


def draw_all(analysis: Analysis, folder: Path) -> list[Path]:
    """Write every picture that has a curve into `folder`."""
    paths = []
    for file, keys in FILES.items():
        measures = [BY_KEY[key] for key in keys if key in analysis.curves]
        if measures:
            figure = _panels(analysis, measures, overview=file == "crossover.png")
            figure.savefig(folder / file, format="png", dpi=160)
            paths.append(folder / file)
    return paths


def _panels(analysis: Analysis, measures: Sequence[Measure], overview: bool) -> Figure:
    figure = Figure(figsize=(5.4 * len(measures), 4.3), layout="constrained", facecolor="white")
    grid = figure.subplots(1, len(measures), squeeze=False)
    ends: list[tuple[Axes, list[End]]] = []
    for axes, measure in zip(grid[0], measures, strict=True):
        compared = [
            comparison for comparison in analysis.comparisons if comparison.measure == measure
        ]
        with_state = overview and measure.key == "memory"
        ends.append((axes, _panel(axes, analysis, measure, with_state)))
        for comparison in compared if len(analysis.dataset.pairs) == 1 else []:
            for crossing in comparison.crossings:
                if crossing.ends:
                    axes.axvspan(*crossing.ends, color=INK, alpha=0.08, linewidth=0)
                axes.axvline(crossing.number, color=INK, linewidth=1, linestyle=(0, (3, 2)))
                axes.annotate(
                    f"crossover\n{units.tokens(crossing.number)} tokens", (crossing.number, 0.02),
                    xycoords=axes.get_xaxis_transform(), xytext=(6, 0), textcoords="offset points",
                    fontsize=8.5, color=INK, va="bottom",
                )  # fmt: skip
            if runs := phrases.undecided_runs(comparison):
                # Hollow, hatched stretches: the least certain comparison must not look the most
                # certain.
                text = "" if comparison.crossings else phrases.not_decided(runs)
                for low, high in runs:
                    axes.axvspan(
                        low / 1.06, high * 1.06,
                        facecolor="none", edgecolor=GRID, hatch="///", linewidth=0,
                    )  # fmt: skip
                axes.annotate(
                    text.replace(" between", "\nbetween").replace(" at", "\nat"),
                    (runs[0][0], 0.02), xycoords=axes.get_xaxis_transform(), xytext=(6, 0),
                    textcoords="offset points", fontsize=8.5, color=INK, va="bottom",
                )  # fmt: skip
    figure.supxlabel(literal(_where(analysis.dataset)), fontsize=7.5, color=MUTED)
    figure.draw_without_rendering()  # settles the layout, and with it the pixels of a value
    for axes, names in ends:
        _label_ends(axes, names)
    return figure


def _where(dataset: Dataset) -> str:
    """On what it was measured; several values, where they were allowed to differ."""
    names, threads = (
        units.unique(row.device.get(name) for row in dataset.rows) for name in ("name", "threads")
    )
    precision = units.unique(row.precision for row in dataset.rows)
    commit = units.unique(row.commit[:12] for row in dataset.rows)
    return f"{names}, threads: {threads}, {precision}, commit {commit}"


def _panel(axes: Axes, analysis: Analysis, measure: Measure, with_state: bool) -> list[End]:
    """One measure; `with_state` adds the bytes carried between tokens as dashed curves.

    The last points of its curves, which have no names yet.
    """
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2 if measure.unit == "B" else 10)
    colours = palette(analysis.dataset.all_series)
    drawn = [(curve, "-", "") for curve in analysis.curves[measure.key]]
    if with_state:
        drawn += [(curve, "--", " state") for curve in analysis.curves.get("state", [])]
    ends: list[End] = []
    for curve, dashes, suffix in drawn:
        if curve.measured or curve.disturbed:
            colour = colours[curve.series.label]
            points = [curve.measured[length] for length in sorted(curve.measured)]
            lengths = [point.length for point in points]
            marker = "o" if curve.series.recurrent else "s"
            for point in curve.disturbed:
                axes.plot(
                    point.length, point.value, marker,
                    markersize=5, color=colour, markerfacecolor="none",
                )  # fmt: skip
            if any(len(point.values) > 1 for point in points):
                low, high = zip(*(point.quartiles for point in points), strict=True)
                axes.fill_between(lengths, low, high, color=colour, alpha=0.18, linewidth=0)
            values = [point.value for point in points]
            axes.plot(
                lengths, values, dashes, marker=marker, markersize=4.5, color=colour, linewidth=1.8
            )
        if curve.measured:
            last = max(curve.measured.values(), key=lambda point: point.length)
            text = literal(phrases.name(curve.series)) + suffix
            ends.append((last.length, last.value, text, colours[curve.series.label]))
    title = "Peak training memory, and state (dashed)" if with_state else measure.title
    failed = [curve for curve in analysis.curves[measure.key] if curve.failed]
    kind = "bytes" if measure.unit == "B" else "time"
    dress(axes, title, "context length, tokens", f"{kind} per {measure.per}", len(failed))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: units.tokens(round(value))))
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: units.round_quantity(value, measure.unit))
    )
    if measure.unit == "s":
        axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5), numticks=12))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
    axes.margins(x=0.06, y=0.12)
    for place, curve in enumerate(reversed(failed)):
        _draw_failures(axes, curve, colours[curve.series.label], place)
    return ends


def _draw_failures(axes: Axes, curve: Curve, colour: str, place: int) -> None:
    """A row of crosses above the panel with the reason beside them: a failed point is data."""
    top = axes.get_xaxis_transform()
    height = 1.03 + 0.045 * place
    for point in curve.failed:
        status = point.status.replace("_", " ")
        axes.plot(
            point.length, height, "x", color=colour, markersize=6, markeredgewidth=2,
            transform=top, clip_on=False, alpha=0.45 if point.status in NOT_TRIED else 1,
        )  # fmt: skip
        axes.annotate(
            status, (point.length, height), xycoords=top, xytext=(-6, 0),
            textcoords="offset points", ha="right", va="center", fontsize=8.5, color=colour,
        )  # fmt: skip


def dress(axes: Axes, title: str, x: str, y: str, rows_above: int = 0) -> None:
    """Title, with room for `rows_above` rows below it, labels of both axes, and a grid."""
    axes.set_title(
        title, loc="left", fontsize=11, fontweight="bold", color=INK, pad=8 + 12 * rows_above
    )
    axes.set_xlabel(x, fontsize=9, color=MUTED)
    axes.set_ylabel(y, fontsize=9, color=MUTED)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRID)
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.tick_params(colors=MUTED, labelsize=8.5, which="both", length=0)


def _label_ends(axes: Axes, ends: list[End]) -> None:
    """Names beside the last points, pushed apart where they would touch; the layout is settled."""
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    gap, top = 13 * figure.dpi / 72, axes.bbox.y1
    ends = sorted(ends, key=lambda end: end[1])
    wanted = [axes.transData.transform((x, y))[1] for x, y, _, _ in ends]
    actual: list[float] = []
    for pixel in wanted:
        actual.append(max(pixel, actual[-1] + gap) if actual else pixel)
    for place in reversed(range(len(actual))):
        actual[place] = min(actual[place], top)
        top = actual[place] - gap
    for (x, y, text, colour), at, pixel in zip(ends, actual, wanted, strict=True):
        axes.annotate(
            text, (x, y), xytext=(8, (at - pixel) * 72 / figure.dpi),
            textcoords="offset points", va="center", fontsize=9, fontweight="bold", color=colour,
            annotation_clip=False,
        )  # fmt: skip
