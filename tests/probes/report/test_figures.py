"""The pictures hold the data they are drawn from, whatever was probed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.lines import Line2D

from conf.schema import PROBES
from probes.analysis.analysis import Analysis, analyse
from probes.analysis.crossovers import Curve
from probes.analysis.dataset import collect
from probes.analysis.metrics import BY_KEY
from probes.report import figures, phrases
from probes.rows import Row
from tests.probes.synthetic import (
    COSTS,
    LENGTHS,
    REPEATS,
    TRAIN_CROSSOVER,
    failed,
    make_rows,
    undecided_rows,
    write_run,
)

Draw = Callable[..., tuple[Analysis, dict[str, Figure]]]


@pytest.fixture
def draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Draw:
    """The pictures of rows as objects instead of files, by the file's name."""
    pictures: dict[str, Figure] = {}

    def keep(figure: Figure, path: Path, **_: Any) -> None:
        pictures[path.name] = figure

    def drawn(rows: list[Row], **options: Any) -> tuple[Analysis, dict[str, Figure]]:
        dataset = collect([write_run(tmp_path / "run", rows)], **options)
        analysis = analyse(dataset, (1024, 8192))
        figures.draw_all(analysis, tmp_path)
        return analysis, pictures

    monkeypatch.setattr(Figure, "savefig", keep)
    # Names are only not pushed apart without it, and it takes most of the time.
    monkeypatch.setattr(Figure, "draw_without_rendering", lambda figure: None)
    return drawn


def points(line: Line2D) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in np.transpose(line.get_data())]


def marked(axes: Axes, style: str, markers: str = "os") -> list[Line2D]:
    """Lines with one of these markers: of curves (`-` or `--`), of single points (`None`)."""
    return [
        line
        for line in axes.lines
        if str(line.get_marker()) in markers and line.get_linestyle() == style
    ]


def values_of(curve: Curve) -> list[tuple[float, float]]:
    return [(length, curve.measured[length].value) for length in sorted(curve.measured)]


def test_every_picture_holds_the_curves_of_its_measures(draw: Draw) -> None:
    analysis, pictures = draw(make_rows(probes=PROBES))
    assert set(pictures) == set(figures.FILES)
    for file, keys in figures.FILES.items():
        for axes, key in zip(pictures[file].axes, keys, strict=True):
            measure, curves = BY_KEY[key], analysis.curves[key]
            with_state = file == "crossover.png" and key == "memory"
            assert [points(line) for line in marked(axes, "-")] == list(map(values_of, curves))
            states = [values_of(curve) for curve in analysis.curves["state"] if with_state]
            assert [points(line) for line in marked(axes, "--")] == states
            for line, curve in zip(marked(axes, "-"), curves, strict=True):
                assert line.get_marker() == ("o" if curve.series.recurrent else "s")
            if not with_state:
                assert axes.get_title(loc="left") == measure.title
            assert axes.get_xlabel() == "context length, tokens"
            kind = "bytes" if measure.unit == "B" else "time"
            assert axes.get_ylabel() == f"{kind} per {measure.per}"
            assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
            texts = [text.get_text() for text in axes.texts]
            assert all(phrases.name(curve.series) in texts for curve in curves)


def test_values_and_bands_are_those_measured(draw: Draw) -> None:
    """The lower quartile of the repeats, in a band from their first quartile to their third."""
    _, pictures = draw(make_rows(probes=("prefill",), fixed=False))
    (axes,) = pictures["prefill.png"].axes
    low, high = np.quantile(REPEATS, (0.25, 0.75))
    for line, band, kind in zip(
        marked(axes, "-"), axes.collections, ("recurrent", "attention"), strict=True
    ):
        costs = np.array([COSTS[kind, "prefill"](length) for length in LENGTHS])
        assert points(line) == pytest.approx(np.stack([LENGTHS, costs], 1))
        outline = np.asarray(band.get_paths()[0].vertices, float)
        for length, cost in zip(LENGTHS, costs, strict=True):
            edges = outline[outline[:, 0] == length, 1]
            assert (edges.min(), edges.max()) == pytest.approx((low * cost, high * cost))


def test_crossovers_are_marked_with_their_intervals(draw: Draw) -> None:
    _, pictures = draw(make_rows(probes=("train",), fixed=False))
    (axes,) = pictures["train_time.png"].axes
    (mark,) = (line for line in axes.lines if line.get_marker() == "None")
    assert points(mark)[0][0] == points(mark)[1][0] == pytest.approx(TRAIN_CROSSOVER, rel=0.02)
    (band,) = axes.patches
    low, high = band.get_extents().transformed(axes.transData.inverted()).intervalx
    assert low < points(mark)[0][0] < high < 1.1 * low
    assert any(text.get_text().startswith("crossover\n2,8") for text in axes.texts)


def test_pictures_are_written(tmp_path: Path) -> None:
    """Only what was probed is drawn."""
    rows = make_rows(probes=("prefill",), fixed=False)
    analysis = analyse(collect([write_run(tmp_path / "run", rows)]), (1024, 8192))
    paths = figures.draw_all(analysis, tmp_path)
    assert {path.name for path in paths} == {"prefill.png", "memory_inference.png"}
    for path in paths:
        height, width, _ = imread(path).shape
        assert height > 500 and width > 800


@pytest.mark.parametrize("status", ["oom", "timeout", "error"])
def test_failed_points_are_drawn(draw: Draw, status: str) -> None:
    rows = make_rows(("rwkv4",), ("prefill",), fixed=False)
    _, pictures = draw([*rows, failed("gpt", "prefill", 8192, status)])
    (axes,) = pictures["prefill.png"].axes
    (cross,) = marked(axes, "None", "x")
    assert points(cross)[0][0] == 8192
    assert status in [text.get_text() for text in axes.texts]
    assert len(marked(axes, "-")) == 1


def test_disturbed_points_are_hollow(draw: Draw) -> None:
    """They stand alone, and no line leads to them."""
    rows = [
        replace(row, disturbed=[row.context_length > 256] * len(row.seconds))
        for row in make_rows(("gpt",), ("prefill",), fixed=False)
    ]
    _, pictures = draw(rows)
    (axes,) = pictures["prefill.png"].axes
    hollow, (line,) = marked(axes, "None"), marked(axes, "-")
    assert {str(one.get_markerfacecolor()) for one in hollow} == {"none"}
    assert str(line.get_markerfacecolor()) != "none"
    assert [points(one)[0][0] for one in hollow] == list(LENGTHS[1:])
    assert [length for length, _ in points(line)] == [256]


def test_what_is_not_decided_is_hatched(tmp_path: Path) -> None:
    dataset = collect([write_run(tmp_path / "run", undecided_rows())])
    figure = figures._panels(analyse(dataset, (256, 4096)), [BY_KEY["prefill"]], overview=False)
    (axes,) = figure.axes
    assert [patch.get_hatch() for patch in axes.patches] == ["///"]
    assert any("not decided\nbetween 256 and 2,048" in text.get_text() for text in axes.texts)


def test_every_machine_of_a_mixed_picture_is_named(draw: Draw) -> None:
    rows = make_rows(("gpt",), ("prefill",), fixed=False)
    other = {**rows[0].device, "name": "Other CPU", "threads": 4}
    rows[1:2] = [replace(rows[1], device=other)]
    _, pictures = draw(rows, allow_mixed=True)
    assert pictures["prefill.png"].get_supxlabel() == (
        "Test CPU, Other CPU, threads: 2, 4, float32, commit 0123456789ab"
    )


def test_models_are_told_apart(draw: Draw) -> None:
    """Each model has a colour of its own; what recurs has round marks, what attends square ones."""
    models = ("rwkv4", "rwkv7", "gpt", "transformer")
    analysis, pictures = draw(make_rows(models, ("prefill",), fixed=False))
    (axes,) = pictures["prefill.png"].axes
    lines = marked(axes, "-")
    assert len({line.get_color() for line in lines}) == len(models)
    assert [line.get_marker() == "o" for line in lines] == [
        curve.series.recurrent for curve in analysis.curves["prefill"]
    ]
