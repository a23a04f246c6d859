"""The pictures are real, complete and drawn for whatever was probed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from conf.schema import PROBES
from probes.analysis.analysis import analyse
from probes.analysis.dataset import collect
from probes.analysis.metrics import BY_KEY
from probes.report import figures
from probes.rows import Row
from tests.probes.synthetic import failed, has_colour, make_rows, undecided_rows, write_run


def drawn(folder: Path, rows: list[Row]) -> dict[str, np.ndarray]:
    dataset = collect([write_run(folder / "run", rows)])
    paths = figures.draw_all(analyse(dataset, (1024, 8192)), folder)
    return {path.name: imread(path) for path in paths}


def test_every_picture_shows_both_models(tmp_path: Path) -> None:
    images = drawn(tmp_path, make_rows(probes=PROBES))
    assert set(images) == set(figures.FILES)
    for name, image in images.items():
        assert image.shape[0] > 500 and image.shape[1] > 800, name
        assert has_colour(image, figures.RECURRENT[0]), name
        assert has_colour(image, figures.ATTENTION[0]), name


def test_only_what_was_probed_is_drawn(tmp_path: Path) -> None:
    assert set(drawn(tmp_path, make_rows(probes=("prefill",), fixed=False))) == {
        "prefill.png", "memory_inference.png",
    }  # fmt: skip


@pytest.mark.parametrize("status", ["oom", "timeout", "error"])
def test_failed_points_are_drawn(tmp_path: Path, status: str) -> None:
    rows = make_rows(("rwkv4",), ("prefill",), fixed=False)
    assert not has_colour(drawn(tmp_path / "a", rows)["prefill.png"], figures.ATTENTION[0])
    rows += [failed("gpt", "prefill", 8192, status)]
    assert has_colour(drawn(tmp_path / "b", rows)["prefill.png"], figures.ATTENTION[0])


def test_disturbed_points_are_hollow(tmp_path: Path) -> None:
    """Alone in the picture, they show in their colour, without a line between them."""
    rows = make_rows(("gpt",), ("prefill",), fixed=False)
    coloured = {}
    for name, bad in (("quiet", False), ("busy", True)):
        marked = [
            replace(row, disturbed=[bad and row.context_length > 256] * len(row.seconds))
            for row in rows
        ]
        image = drawn(tmp_path / name, marked)["prefill.png"]
        rgb = np.array([int(figures.ATTENTION[0][place : place + 2], 16) for place in (1, 3, 5)])
        coloured[name] = (np.abs(255 * image[..., :3] - rgb) < 8).all(axis=-1).sum()
    assert 0 < coloured["busy"] < 0.7 * coloured["quiet"]


def test_what_is_not_decided_is_hatched(tmp_path: Path) -> None:
    dataset = collect([write_run(tmp_path / "run", undecided_rows())])
    figure = figures._panels(analyse(dataset, (256, 4096)), [BY_KEY["prefill"]], overview=False)
    (axes,) = figure.axes
    assert [patch.get_hatch() for patch in axes.patches] == ["///"]
    assert any("not decided\nbetween 256 and 2,048" in text.get_text() for text in axes.texts)


def test_every_machine_of_a_mixed_picture_is_named(tmp_path: Path) -> None:
    rows = make_rows(("gpt",), ("prefill",), fixed=False)
    other = {**rows[0].device, "name": "Other CPU", "threads": 4}
    rows[1:2] = [replace(rows[1], device=other)]
    dataset = collect([write_run(tmp_path / "run", rows)], allow_mixed=True)
    assert figures._where(dataset) == (
        "Test CPU, Other CPU, threads: 2, 4, float32, commit 0123456789ab"
    )


def test_colours_tell_families_and_arms_apart(tmp_path: Path) -> None:
    rows = make_rows(("rwkv4", "rwkv7", "gpt", "transformer"), fixed=False)
    all_series = collect([write_run(tmp_path, rows)]).all_series
    colours = figures.palette(all_series)
    assert len(set(colours.values())) == 4
    assert {colours["rwkv4"], colours["rwkv7"]} <= set(figures.RECURRENT)
    assert {colours["gpt"], colours["transformer"]} <= set(figures.ATTENTION)
