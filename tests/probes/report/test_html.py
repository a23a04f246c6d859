"""The page: self-contained, complete, and drawn by a real browser without an error."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conf.schema import PROBES
from probes.analysis.analysis import analyse
from probes.analysis.dataset import collect
from probes.analysis.metrics import MEASURES
from probes.report.html import page
from probes.report.rows_csv import COLUMNS
from probes.report.template import TEMPLATES
from probes.report.write import compose
from probes.rows import Row
from tests.browser import audit, browse, needs_browser, scripted, violations
from tests.probes.synthetic import (
    COSTS,
    LENGTHS,
    failed,
    make_row,
    make_rows,
    make_summary,
    undecided_rows,
    write_run,
)

KINDS = ("recurrent", "attention")
VOID = {"meta", "link", "br", "input", "img"}


class Elements(HTMLParser):
    """Start tags with their attributes; fails on tags that are not closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def write_page(folder: Path, rows: list[Row], *summaries: dict[str, Any]) -> Path:
    """The page of these rows alone, without the other files of a report."""
    dataset = collect([write_run(folder / "run", rows, *summaries)])
    path = folder / "index.html"
    report = compose(analyse(dataset, (1024, 8192)), folder)
    path.write_text(page(report.analysis, report.contents))
    return path


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of two models, trained and probed, of which one ran out of memory once."""
    rows = [*make_rows(), failed("gpt", "train", 16384, "oom")]
    runs = (make_summary("rwkv4", 3.3), make_summary("gpt", 3.2))
    return write_page(tmp_path_factory.mktemp("page"), rows, *runs)


def test_nothing_is_loaded_from_outside(usual: Path) -> None:
    text = usual.read_text()
    assert not re.search(r"https?://|//[a-z]+\.[a-z]|@import|url\(|\bfetch\(|XMLHttpRequest", text)
    elements = Elements()
    elements.feed(text)
    assert elements.open == []
    for tag, attributes in elements.found:
        for name in ("src", "href", "srcset", "action", "poster"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#")), tag
    contents = [str(one.get("content")) for tag, one in elements.found if tag == "meta"]
    assert any(content.startswith("default-src 'none'") for content in contents)


def test_rows_are_embedded_and_cannot_break_out(tmp_path: Path) -> None:
    rows = [*make_rows(), failed("gpt", "train", 16384, "error", command="</script><b>&amp;")]
    text = write_page(tmp_path, rows).read_text()
    assert "</script><b>" not in text
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert found
    data = json.loads(found[1])
    assert tuple(data["columns"]) == COLUMNS
    assert len(data["rows"]) == len(rows)
    assert data["rows"][-1][COLUMNS.index("command")] == "</script><b>&amp;"
    with pytest.raises(ValueError, match="Out of range"):
        TEMPLATES.from_string("{{ number|tojson }}").render(number=float("nan"))


def test_order_and_content_of_the_page(usual: Path) -> None:
    text = usual.read_text().replace("\u00a0", " ")
    body = re.sub(r"<span class=\"nowrap\">(.*?)</span>", r"\1", text)
    landmarks = [
        "<h1>", "<h2>Training time per sequence", "With a document of 50 pages",
        "Wait before the first word", "Words a second", "Memory that the document takes",
        "Compared here:", "This says little about", 'id="notice"', "In pages of text an hour",
        "Single tokens", 'id="losses"', "First, where RWKV-4 loses", "(this is called attention)",
        "of 10 comparisons the", 'id="ranges"', 'id="curves"', "<h3>Time to read a prompt",
        "<h3>Time per generated", "<h3>Peak memory", "<h3>Memory of the context",
        "Crossover lengths", "How costs grow", 'id="quality"', "gzip -9", "xz -9", 'id="cost"',
        "In pages of text and money", "Use of the device and energy", 'id="method"',
        "Points that did not finish", "oom at 16384", 'id="numbers"', 'id="points"', 'id="copy"',
    ]  # fmt: skip
    places = [body.find(one) for one in landmarks]
    assert -1 not in places, landmarks[places.index(-1)]
    assert places == sorted(places)
    facts = [
        "Test CPU", "0123456789abcdef", "torch 2.13.0", "python scripts/probe.py -m",
        "attention: flash", "resident set of the process", "10,050,000", "2.400",
    ]  # fmt: skip
    for fact in facts:
        assert fact in body, fact


def test_without_trainings_failures_or_pairs(tmp_path: Path) -> None:
    text = write_page(tmp_path, make_rows(("gpt",), ("decode",), fixed=False)).read_text()
    assert "Only GPT was measured" in text
    assert "None: every point finished." in text
    assert "No finished training with a validation loss was given" in text
    assert 'id="ranges"' not in text


def test_what_is_not_decided_is_no_solid_bar(tmp_path: Path) -> None:
    text = write_page(tmp_path, undecided_rows()).read_text()
    track = next(one for one in text.split('<div class="range">')[1:] if "Time to read" in one)
    assert "not decided between 256 and 2,048" in track
    assert 'class="part undecided"' in track and 'class="part"' not in track
    data = re.search(r'id="data">(.*?)</script>', text, re.S)
    assert data
    chart = next(one for one in json.loads(data[1])["charts"] if "read a prompt" in one["alt"])
    assert [one["runs"] for one in chart["undecided"]] == [[[256, 2048]]]
    assert chart["crossings"] == []


def test_disturbed_points_are_marked(tmp_path: Path) -> None:
    rows = [
        replace(row, disturbed=[row.context_length == 512] * len(row.seconds))
        for row in make_rows(("rwkv4", "gpt"), ("train",), fixed=False)
    ]
    text = write_page(tmp_path, rows).read_text()
    assert "2.51 s, disturbed" in text.replace("\u00a0", " ")
    assert text.count('"status":"disturbed","value":2.512') == 1, "times only, not memory"
    assert text.count('"status":"disturbed"') == 2


# ---- in a browser --------------------------------------------------------------------------------


@needs_browser
def test_every_chart_is_drawn(tmp_path: Path, usual: Path) -> None:
    dom = browse(tmp_path, usual)
    assert "data-error" not in dom
    assert 'data-charts="10"' in dom
    assert dom.count("<svg ") == 10
    assert dom.count('class="curve"') == 20
    # Crosses of the failed training step: in the chart of its time and in that of its memory.
    assert dom.count('class="cross"') == 2
    assert dom.count('class="crossing"') == 6
    assert "crosses at 2,8" in dom
    # The first chart is the training step's: its curves are the costs on two logarithmic axes.
    curves = re.findall(r'class="curve" d="M([^"]*)"', dom)[:2]
    places = [[float(number) for number in re.split("[,L]", curve)] for curve in curves]
    for which, numbers in enumerate((places[0] + places[1])[place::2] for place in (0, 1)):
        costs = [COSTS[kind, "train"](length) for kind in KINDS for length in LENGTHS]
        told = np.log([*LENGTHS, *LENGTHS] if which == 0 else costs)
        slope, start = np.polyfit(told, numbers, 1)
        assert (slope > 0) == (which == 0), "longer is to the right, dearer is up"
        assert np.array(numbers) == pytest.approx(start + slope * told, abs=0.1)


@needs_browser
def test_charts_follow_the_width_of_the_window(tmp_path: Path, usual: Path) -> None:
    actions = """
      document.body.style.width = '390px';
      document.querySelectorAll('details').forEach((one) => { one.open = true; });
    """
    narrow = scripted(tmp_path, usual, actions)
    dom = browse(tmp_path, narrow, "--virtual-time-budget=3000", "--dump-dom")
    assert "data-error" not in dom and dom.count("<svg ") == 10
    widths = [float(width) for width in re.findall(r'viewBox="0 0 ([\d.]+)', dom)]
    assert len(widths) == 10 and max(widths) <= 390


@needs_browser
def test_every_probe_has_its_chart(tmp_path: Path) -> None:
    lost = [
        failed("gpt", "generate", 16384, "predicted_timeout"),
        failed("gpt", "operator", 16384, "predicted_oom"),
    ]
    dom = browse(tmp_path, write_page(tmp_path, [*make_rows(probes=PROBES), *lost]))
    assert "data-error" not in dom and "NaN" not in dom
    assert f'data-charts="{len(MEASURES)}"' in dom
    assert dom.count('class="curve"') == 2 * len(MEASURES)
    for measure in MEASURES:
        assert f">{measure.title}</h" in dom
    assert dom.count('class="cross predicted"') == 2
    assert ">predicted timeout</text>" in dom
    assert "The largest batch in a fixed memory" in dom


@needs_browser
@pytest.mark.parametrize(
    "rows",
    [
        make_rows(("gpt",), ("decode",), fixed=False),
        make_rows(("rwkv4", "rwkv7", "gpt", "transformer"), fixed=False),
        [make_row("rwkv4", "train", 256), make_row("gpt", "train", 256)],
        [make_row("rwkv4", "train", 256), failed("gpt", "train", 256, "timeout")],
        [failed("rwkv4", "train", 256, "oom"), failed("gpt", "train", 256, "timeout")],
    ],
    ids=["one arm", "four pairs", "one length", "one arm failed", "all failed"],
)
def test_odd_material_is_drawn_without_an_error(tmp_path: Path, rows: list[Row]) -> None:
    dom = browse(tmp_path, write_page(tmp_path, rows))
    assert "data-error" not in dom
    assert "data-charts=" in dom
    assert "NaN" not in dom


@needs_browser
def test_tooltip_toggles_and_axes(tmp_path: Path, usual: Path) -> None:
    actions = """
      document.querySelector('[data-arm="gpt"]').click();
      document.querySelector('[data-scale="linear"]').click();
      const plot = document.querySelector('.plot');
      plot.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight'}));
      document.body.dataset.curves = document.querySelectorAll('.curve').length;
      document.body.dataset.tip = plot.querySelector('.tip').innerText;
      const labels = [...plot.querySelectorAll('text')].map((label) => label.textContent);
      document.body.dataset.ticks = labels.join('|');
    """
    dom = browse(tmp_path, scripted(tmp_path, usual, actions))
    body = dom[dom.index("<body") : dom.index("<main")]
    assert "data-error" not in body
    assert 'data-curves="10"' in body
    assert "256 tokens" in body and "repeats 2.23 s, 2.26 s, 2.28 s" in body.replace("&nbsp;", " ")
    assert "GPT" not in body
    assert "|5,000|" in body and "|10 s|" in body


@needs_browser
def test_a_script_error_is_shown(tmp_path: Path, usual: Path) -> None:
    dom = browse(tmp_path, scripted(tmp_path, usual, "throw new Error('broken on purpose');"))
    assert 'data-error="Uncaught Error: broken on purpose"' in dom


@needs_browser
def test_what_is_folded_is_out_of_the_way_and_everything_can_be_reached(
    tmp_path: Path, usual: Path
) -> None:
    desk, phone = audit(tmp_path, usual.read_text())
    assert (desk["problems"], phone["problems"]) == ([], [])
    assert (desk["width"], phone["width"]) == (1280, 390)
    assert desk["height"] <= 4 * 800 and phone["height"] <= 12 * 844


@needs_browser
def test_long_names_and_every_colour_can_be_read(tmp_path: Path) -> None:
    """Four models of each kind, light and dark, and the longest title of a measure."""
    rows = [
        make_row(name, probe, length)
        for name in ("rwkv4", "rwkv5", "rwkv6", "rwkv7", "gpt", "transformer", "other", "another")
        for probe in ("train", "max_batch_train")
        for length in LENGTHS[:2]
    ]
    text = write_page(tmp_path, rows).read_text()
    for dark in (False, True):
        for one in audit(tmp_path, text, dark):
            assert one["problems"] == []


@needs_browser
@pytest.mark.slow
def test_in_the_dark_too(tmp_path: Path, usual: Path) -> None:
    for one in audit(tmp_path, usual.read_text(), dark=True):
        assert one["dark"] and one["problems"] == []


@needs_browser
@pytest.mark.slow
def test_axe_finds_nothing(tmp_path: Path, usual: Path) -> None:
    assert violations(tmp_path, usual.read_text()) == []


@needs_browser
def test_the_table_of_all_numbers_is_filtered(tmp_path: Path, usual: Path) -> None:
    actions = """
      document.querySelectorAll('details').forEach((one) => { one.open = true; });
      const [measure, context, model] = document.querySelectorAll('#filters select');
      measure.value = 'Training time per sequence'; model.value = 'GPT';
      measure.dispatchEvent(new Event('change', {bubbles: true}));
    """
    dom = browse(tmp_path, scripted(tmp_path, usual, actions))
    table = dom[dom.index('id="points"') :]
    kept = [one for one in re.findall(r"<tr[^>]*>", table) if "hidden" not in one][1:]
    assert len(kept) == len(LENGTHS) + 1
    assert f">{len(kept)} of " in dom
