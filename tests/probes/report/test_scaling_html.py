"""A scaling study in the report: alone, beside probes, and refused where it is unfair."""

from __future__ import annotations

import json
import re
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from core.errors import UserError
from probes.analysis.dataset import collect
from probes.report.write import Report, print_table, write_report
from tests.probes.report.page_reading import LABELS, Shown, strings
from tests.probes.report.test_html import Elements
from tests.probes.synthetic import make_rows, make_summary, write_run
from tests.probes.trainings import grid

RUNS = [*grid("rwkv7", 0.95, 0.003, 0), *grid("transformer", 1.0, 0.003, 1)]


def report_of(folder: Path, rows: list[Any], runs: list[dict[str, Any]], **more: Any) -> Report:
    run = write_run(folder / "runs", rows, *runs)
    return write_report([run], folder / "out", 1024, 8192, more.get("allow_mixed", False))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Trainings without a single probe row."""
    return report_of(tmp_path_factory.mktemp("alone"), [], RUNS)


def test_the_page_stands_alone(alone: Report) -> None:
    text = (alone.out / "index.html").read_text()
    elements = Elements()
    elements.feed(text)
    assert elements.open == []
    assert "{{" not in text and "nan" not in re.sub('base64,[^"]*', "", text)
    assert not re.search(r"https?://|<script", text)
    assert "RWKV-7</span> predicts new text better than the Transformer" in text
    pictures = [kept for tag, kept in elements.found if tag == "img"]
    assert len(pictures) == 1 and str(pictures[0]["src"]).startswith("data:image/png;base64,")
    assert text.count("<tr") >= len(RUNS) + 2
    assert "Dashed: extrapolated" in text


def test_the_page_says_what_the_record_holds(alone: Report) -> None:
    told = json.loads((alone.out / "crossover.json").read_text())["scaling"]["page"]
    shown = Shown((alone.out / "index.html").read_text())
    assert [text for text in shown.texts if text not in strings(told) | LABELS] == []
    assert set(shown.spoken) == {told["alt"]}
    assert not strings(told) - set(shown.texts) - set(shown.spoken) - {""}


def test_crossover_json_holds_the_study(alone: Report) -> None:
    found = json.loads((alone.out / "crossover.json").read_text())["scaling"]
    assert list(found["families"]) == ["rwkv7", "transformer"]
    mine = found["families"]["rwkv7"]
    assert len(mine["trials"]) == 12 and mine["law"] in mine["weights"]
    assert mine["slope"]["low"] < mine["slope"]["value"] < mine["slope"]["high"]
    one = found["comparisons"][0]
    assert one["models"] == ["rwkv7", "transformer"]
    assert all(gap["high"] < 0 for gap in one["differences"])
    assert 0 < one["saving"]["value"] < 1


def test_the_terminal_shows_trainings_and_laws(alone: Report) -> None:
    console = Console(file=StringIO(), width=240)
    print_table(alone, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "Trainings" in text and "Crossovers" not in text
    assert "RWKV-7 predicts new text better than the Transformer" in text


@pytest.mark.usefixtures("no_pictures")
def test_a_study_stands_beside_probes(tmp_path: Path) -> None:
    models = ("rwkv7", "transformer")
    report = report_of(tmp_path, make_rows(models), RUNS)
    text = (report.out / "index.html").read_text()
    assert "Loss against training compute" in text and "Crossover lengths" in text
    assert "crossovers" in report.summary and "scaling" in report.summary


@pytest.mark.usefixtures("no_pictures")
def test_no_study_no_section(tmp_path: Path) -> None:
    runs = [make_summary("rwkv4", 3.3), make_summary("gpt", 3.2)]
    report = report_of(tmp_path, make_rows(), runs)
    assert report.analysis.scaling is None and "scaling" not in report.summary
    assert "Loss against training compute" not in (report.out / "index.html").read_text()
    assert not (report.out / "scaling.png").exists()


def test_an_interrupted_study_is_shown(tmp_path: Path) -> None:
    report = report_of(tmp_path, [], RUNS[:17])
    assert report.analysis.scaling is not None
    assert report.analysis.scaling.families[1].law is not None  # five trainings


def test_unlike_trainings_are_refused(tmp_path: Path) -> None:
    def run(name: str, changes: dict[str, Any]) -> Path:
        return write_run(tmp_path / name, [], *RUNS[:-1], RUNS[-1] | changes)

    for name, changes, message in (
        ("data", {"data_fingerprint": "other"}, "data_fingerprint of the trainings differs"),
        ("order", {"order_hash": "other"}, "order_hash of the trainings differs"),
        ("precision", {"precision": "bf16-mixed"}, "precision of the trainings differs"),
    ):
        with pytest.raises(UserError, match=message):
            collect([run(name, changes)])


def test_nothing_to_report_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no probe rows in .*, and no trainings"):
        collect([write_run(tmp_path / "run", [])])


def test_every_training_is_named(alone: Report) -> None:
    table = json.loads((alone.out / "crossover.json").read_text())["scaling"]["page"]["trials"]
    assert table["headings"][-1] == "run"
    assert {line[-1] for line in table["rows"]} == {run["name"] for run in RUNS}


def test_quality_is_that_of_the_longest_training(tmp_path: Path) -> None:
    longer = [
        make_summary(name, loss - 0.5, name=f"{name}-long", tokens=900_000)
        for name, loss in (("rwkv4", 3.3), ("gpt", 3.2))
    ]
    runs = [make_summary("rwkv4", 3.3), make_summary("gpt", 3.2), *longer]
    dataset = collect([write_run(tmp_path / "run", make_rows(), *runs)], allow_mixed=True)
    found = [
        run["val_loss"] for series in dataset.all_series for run in dataset.trainings_of(series)
    ]
    assert found == pytest.approx([2.8, 2.7])
