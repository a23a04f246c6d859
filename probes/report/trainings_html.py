"""The page of trainings alone: the frame, the styles and the script of a report, other contents."""

from __future__ import annotations

from typing import Any

from probes.analysis.costs import Price
from probes.analysis.training_curves import AXES
from probes.analysis.training_grid import Grid
from probes.report.markup import colour
from probes.report.template import render
from probes.report.trainings_contents import Chart, Contents
from probes.report.trainings_files import COLUMNS, rows_of
from probes.report.trainings_text import series


def page(grid: Grid, contents: Contents, price: Price | None) -> str:
    """The whole file as text."""
    colours = shades(grid)
    arms = []
    for key, name in contents.names.items():
        shade, recurrent = colours[contents.colours[key]]
        arms.append({"label": key, "name": name, "recurrent": recurrent, "colour": shade})
    axes = [
        {"key": key, "label": label, "unit": AXES[key][1]} for key, label in contents.axes.items()
    ]
    data: dict[str, Any] = {
        "arms": arms,
        "axes": axes,
        "heldouts": list(contents.heldouts),
        "scale": "linear",
        "charts": [_chart(chart) for chart in contents.charts],
        "columns": list(COLUMNS),
        "rows": rows_of(grid, price),
    }
    return render(
        "trainings_page.html",
        title=contents.title,
        headline=contents.headline,
        facts=contents.facts,
        quiet="",
        page=contents,
        colours={label: shade for label, (shade, _) in colours.items()},
        axes=axes,
        data=data,
    )


def shades(grid: Grid) -> dict[str, tuple[str, bool]]:
    """The colour of every arm and setting, and whether it is of a recurrent model."""
    arms = [series(arm) for arm in grid.arms]
    settings = [series(arm, one) for arm in grid.arms for one in arm.settings]
    return {
        one.label: (colour(alike, one), bool(one.recurrent))
        for alike in (arms, settings)
        for one in alike
    }


def _chart(chart: Chart) -> dict[str, Any]:
    """What the script draws."""
    return {
        "unit": "",
        "axis": chart.axis,
        "alt": chart.alt,
        "key": chart.key,
        "heldout": chart.heldout,
        "labels": list(chart.labels),
        "series": [
            {
                "arm": curve.arm,
                "points": [
                    {
                        "at": point.at,
                        "status": "ok",
                        "value": point.value,
                        "middle_half": list(point.middle_half),
                        "tip": point.tip,
                    }
                    for point in curve.points
                ],
            }
            for curve in chart.curves
        ],
        "crossings": [],
        "undecided": [],
        "ratios": [],
    }
