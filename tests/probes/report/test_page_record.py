"""Every sentence and number of the page is in crossover.json, and follows from it and rows.csv."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from conf.schema import PROBES
from probes.analysis import bootstrap
from probes.analysis.analysis import analyse
from probes.analysis.costs import Price
from probes.analysis.dataset import collect
from probes.analysis.metrics import BY_KEY
from probes.report import figures, html, template
from probes.report.rows_csv import COLUMNS, csv_text, flat
from probes.report.write import Report, compose
from probes.rows import Row
from tests.probes.report.page_checks import check_sentences, check_texts, problems
from tests.probes.report.page_reading import LABELS, Csv, Record, Shown, leaves
from tests.probes.synthetic import (
    failed,
    make_row,
    make_rows,
    make_summary,
    undecided_rows,
    write_run,
)

# ---- reports -------------------------------------------------------------------------------------

FEW = (256, 512, 1024, 2048, 4096)


def few(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row.context_length in FEW]


def with_processes(rows: list[Row], count: int) -> list[Row]:
    """Each process has a little luck of its own."""
    luck = (1.0, 1.02, 0.99, 1.01, 1.03)
    return [
        replace(row, process=n, seconds=[luck[(n + row.context_length // 256) % 5] * s
                                         for s in row.seconds])
        for n in range(count) for row in rows
    ]  # fmt: skip


def decided() -> tuple[list[Row], list[Any]]:
    rows = few(make_rows(("rwkv4", "gpt"), ("train", "prefill", "decode")))
    rows = [replace(row, peak_flops=3.2e10, energy_joules=2.5) for row in rows]
    rows.append(failed("gpt", "train", 8192, "oom"))
    return rows, [make_summary("rwkv4", 3.312), make_summary("gpt", 3.204)]


def several() -> tuple[list[Row], list[Any]]:
    rows = [
        make_row(who, "train", length, process=n, seconds=[cost * (1 + n / 1000)] * 3)
        for length in FEW
        for who, cost in (("rwkv4", 2.0 if length in (256, 2048) else 0.5), ("gpt", 1.0))
        for n in range(2)
    ]
    return rows, []


def disturbed() -> tuple[list[Row], list[Any]]:
    """One point, one process of another, and single repeats; some measured again."""
    rows = []
    for row in with_processes(few(make_rows(probes=("train", "decode"), fixed=False)), 3):
        marks = [False, False, row.context_length == 2048, False, False]
        if row.context_length == 512 or (row.context_length, row.process) == (1024, 1):
            marks = [True] * 5
        slow = [s * (7 if bad else 1) for s, bad in zip(row.seconds, marks, strict=True)]
        again = 2 if row.context_length == 512 else 0
        rows.append(replace(row, seconds=slow, disturbed=marks, visit=again))
    return rows, [make_summary("rwkv4", 3.2), make_summary("rwkv4", 3.22, name="second")]


def busy() -> tuple[list[Row], list[Any]]:
    rows = few(make_rows(probes=("train",), fixed=False))
    return [replace(row, disturbed=[True] * 5) for row in rows], []


def foreign() -> tuple[list[Row], list[Any]]:
    """Two recurrent models and one that is attention, none of ours; three processes."""
    said = {
        "rwkv4": {"model": "mine", "title": "the minimal GRU"},
        "rwkv7": {"model": "other", "title": "the Other One", "options": {"depth": 2}},
        "gpt": {"model": "rwkvish", "title": "the plain attender", "recurrent": False},
    }
    rows = few(make_rows(("rwkv4", "rwkv7", "gpt"), ("train",), fixed=False))
    rows = [replace(row, **said[row.model]) for row in rows]
    return with_processes(rows, 3), []


def undecided() -> tuple[list[Row], list[Any]]:
    return undecided_rows(), []


def every_probe() -> tuple[list[Row], list[Any]]:
    rows = make_rows(("rwkv4", "gpt"), PROBES, fixed=False)
    rows = [row for row in rows if row.context_length in (512, 1024, 2048)]
    lost = [failed("gpt", "generate", 4096, "predicted_timeout"),
            failed("rwkv4", "operator", 4096, "error")]  # fmt: skip
    return [*rows, *lost], []


def single_values() -> tuple[list[Row], list[Any]]:
    rows = few(make_rows(probes=("train", "decode"), fixed=False))
    return [replace(row, seconds=row.seconds[:1]) for row in rows], []


def one_length() -> tuple[list[Row], list[Any]]:
    return [make_row("rwkv4", "train", 256), make_row("gpt", "train", 256)], []


def nothing_finished() -> tuple[list[Row], list[Any]]:
    return [failed("rwkv4", "train", 256, "oom"), failed("gpt", "train", 256, "timeout")], []


def alone() -> tuple[list[Row], list[Any]]:
    return few(make_rows(("gpt", "transformer"), ("decode",), fixed=False)), []


VARIANTS = (
    decided, several, disturbed, busy, foreign, undecided, every_probe, single_values, one_length,
    nothing_finished, alone,
)  # fmt: skip


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any], Report]:
    """The report of a variant, analysed once; no pictures are drawn."""
    made: dict[str, Report] = {}

    def report(variant: Any) -> Report:
        if variant.__name__ not in made:
            rows, runs = variant()
            folder = tmp_path_factory.mktemp(variant.__name__)
            dataset = collect([write_run(folder / "run", rows, *runs)])
            price = Price(2.5, "EUR") if variant is decided else None
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(bootstrap, "DRAWS", 200)  # of no matter here, and sooner done
                made[variant.__name__] = compose(analyse(dataset, (256, 4096), price), folder)
        return made[variant.__name__]

    return report


def parsed(report: Report) -> tuple[Shown, Record, Csv]:
    """Page, crossover.json and rows.csv as a reader has them."""
    record = json.loads(json.dumps(report.summary, allow_nan=False))
    return (
        Shown(html.page(report.analysis, report.contents)),
        record,
        Csv(csv_text(COLUMNS, map(flat, report.analysis.dataset.rows))),
    )


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda one: one.__name__)
def test_the_page_says_what_the_record_holds(
    reports: Callable[[Any], Report], variant: Any
) -> None:
    assert list(problems(*parsed(reports(variant)))) == []


def test_labels_of_the_page_hold_no_number() -> None:
    assert template.TEMPLATES.loader is not None
    text, _, _ = template.TEMPLATES.loader.get_source(template.TEMPLATES, "page.html")
    assert not [one for one in LABELS if re.search(r"\d", one)]
    assert not re.search(r">[^<{]*\d", text)


@contextmanager
def set_to(record: Record, path: tuple[Any, ...], value: Any) -> Iterator[None]:
    """Something else at one place of the record, for as long as it is looked at."""
    parent: Any = record
    for key in path[:-1]:
        parent = parent[key]
    before, parent[path[-1]] = parent[path[-1]], value
    yield
    parent[path[-1]] = before


def changed(value: Any) -> Any:
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        return value * 2 + 1 if isinstance(value, int) else value * 1.3 + 0.01
    return f"{value} 7" if value else None


HIDDEN = {"quadratic", "bend", "local", "trained_tokens", "trainings", "config", "weights"}
"""Parts of the record that the page does not show as a number of its own."""
SHOWN = ("crossovers", "curves", "slopes", "models", "baselines", "costs", "latencies", "use",
         "failures", "document", "page")  # fmt: skip


def shape_of(path: tuple[Any, ...], names: set[str]) -> tuple[str, ...]:
    """A path without its lengths, labels and places: one of each kind is changed."""
    return tuple("*" if str(key).isdigit() or key in names else str(key) for key in path)


def test_whatever_is_changed_is_found(reports: Callable[[Any], Report]) -> None:
    """One value of each kind in the record, and numbers of the page."""
    report = reports(disturbed)
    shown, record, rows = parsed(report)
    seen = set()
    names = {*record["models"], *record["curves"], *record["crossovers"]}
    for path, value in list(leaves(record)):
        kind = shape_of(path, names)
        if path[0] not in SHOWN or kind in seen or HIDDEN & set(kind) or changed(value) is None:
            continue
        seen.add(kind)
        with set_to(record, path, changed(value)):
            assert next(problems(shown, record, rows), None), path
    assert len(seen) > 80
    text = html.page(report.analysis, report.contents)
    start, end = text.index("<body>"), text.index('<script type="application/json"')
    digits = [found.start(1) for found in re.finditer(r">[^<]*?(\d)[^<]*<", text[start:end])]
    assert len(digits) > 150
    for place in digits[::12]:
        at = start + place
        other = Shown(text[:at] + str((int(text[at]) + 3) % 10) + text[at + 1 :])
        assert next(check_texts(other, record), None), text[at - 40 : at + 20]


def test_a_wrong_number_in_page_and_record_alike_is_found(
    reports: Callable[[Any], Report],
) -> None:
    """As if a sentence had been made from other numbers than those recorded."""
    _, record, rows = parsed(reports(decided))
    told = record["page"]
    texts = [("headline",), ("story", 0, "paragraphs", 0), ("story", 0, "paragraphs", 2),
             ("charts", 0, "caption"), ("ranges", "tracks", 0, "verdict")]  # fmt: skip
    tried = 0
    for path in texts:
        text = dict(leaves(told))[path]
        for found in re.finditer(r"(?<![\w.,-])\d[\d,.]*\d", text):
            wrong = f"{9 - int(found[0][0]) or 5}3{found[0][1:]}"
            said = text[: found.start()] + wrong + text[found.end() :]
            if found[0] == "95":
                continue
            with set_to(record, ("page", *path), said):
                assert next(check_sentences(record, rows), None), said
            tried += 1
    assert tried > 15


# ---- the still pictures --------------------------------------------------------------------------


@pytest.mark.parametrize("variant", [disturbed, several, undecided], ids=lambda one: one.__name__)
def test_the_pictures_draw_the_same(reports: Callable[[Any], Report], variant: Any) -> None:
    report = reports(variant)
    told = {one["key"]: one for one in report.summary["page"]["charts"]}
    key = "prefill" if variant is undecided else "train"
    figure = figures._panels(report.analysis, [BY_KEY[key]], overview=False)
    (axes,) = figure.axes
    curves = report.summary["curves"][key]["points"]
    lines = [line for line in axes.lines if len(line.get_xdata()) > 2]
    for line, points in zip(lines, curves.values(), strict=True):
        good = [one for one in points if one["status"] == "ok"]
        assert list(line.get_xdata()) == [one["length"] for one in good]
        assert list(line.get_ydata()) == [one["value"] for one in good]
    hollow = {
        (np.asarray(line.get_xdata())[0], np.asarray(line.get_ydata())[0])
        for line in axes.lines
        if line.get_markerfacecolor() == "none"
    }
    assert hollow == {
        (one["length"], one["value"])
        for points in curves.values()
        for one in points
        if one["status"] == "disturbed"
    }
    marks = [np.asarray(line.get_xdata())[0] for line in axes.lines if line.get_linestyle() == "--"]
    assert marks == [one["length"] for one in told[key]["crossings"]]
    hatched = [patch for patch in axes.patches if patch.get_hatch()]
    assert len(hatched) == sum(len(one["runs"]) for one in told[key]["undecided"])
    texts = " ".join(text.get_text() for text in axes.texts)
    assert all(one["text"] in texts for one in told[key]["crossings"])
