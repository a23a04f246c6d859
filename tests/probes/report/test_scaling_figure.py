"""The picture of a scaling study: its trainings, its laws, and how far these are extrapolated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.image import imread

from probes.analysis.estimators import LEVELS
from probes.analysis.scaling_study import BEYOND, Study, study
from probes.report import scaling_figure, scaling_text
from tests.probes.trainings import grid

RUNS = [*grid("rwkv7", 0.95, 0.003, 0), *grid("transformer", 1.0, 0.003, 1)]


@pytest.fixture(scope="module")
def studied() -> Study:
    return study(RUNS)


@pytest.fixture(scope="module")
def axes(studied: Study) -> Axes:
    (only,) = scaling_figure.draw(studied).axes
    return only


def test_every_training_is_a_point(studied: Study, axes: Axes) -> None:
    dots = axes.collections[::3]  # each family: its trainings, and the bands of two lines
    for family, dot in zip(studied.families, dots, strict=True):
        expected = [(trial.flops, trial.loss) for trial in family.trials]
        assert np.asarray(dot.get_offsets()) == pytest.approx(np.array(expected))
        assert isinstance(dot, PathCollection)
        by_size = np.argsort([trial.parameters for trial in family.trials])
        assert (np.diff(np.asarray(dot.get_sizes())[by_size]) >= 0).all()


def test_lines_and_bands_are_those_of_the_law(studied: Study, axes: Axes) -> None:
    lines = [line for line in axes.lines if len(line.get_xydata()) > 2]
    bands = [band for place, band in enumerate(axes.collections) if place % 3]
    parts = [(family, dashes) for family in studied.families for dashes in ("-", "--")]
    for line, band, (family, dashes) in zip(lines, bands, parts, strict=True):
        compute, losses = np.asarray(line.get_data(), float)
        low, high = family.span
        ends = (low, high) if dashes == "-" else (high, high * BEYOND)
        assert line.get_linestyle() == dashes
        assert (compute[0], compute[-1]) == pytest.approx(ends)
        best, drawn = family.curve(compute)
        assert losses == pytest.approx(best)
        below, above = np.percentile(drawn, LEVELS, axis=0)
        edges = np.asarray(band.get_paths()[0].vertices, float)[:, 1]
        assert (edges.min(), edges.max()) == pytest.approx((below.min(), above.max()))


def test_axes_and_names(studied: Study, axes: Axes) -> None:
    assert axes.get_xscale() == "log" and axes.get_yscale() == "linear"
    assert "compute" in axes.get_xlabel() and scaling_text.UNIT in axes.get_ylabel()
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == [scaling_text.title(family) for family in studied.families]
    assert "extrapolated" in [text.get_text() for text in axes.texts]


def test_it_is_written(studied: Study, tmp_path: Path) -> None:
    height, width, _ = imread(scaling_figure.save(studied, tmp_path)).shape
    assert height > 500 and width > 800
