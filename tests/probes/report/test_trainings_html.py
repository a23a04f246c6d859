"""The page of trainings alone: complete, true, and drawn by a real browser."""

from __future__ import annotations

import csv
import json
import re
from html import unescape
from io import StringIO
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from rich.console import Console

from core.errors import UserError
from probes.analysis.costs import Price
from probes.report.write import Report, print_table, write_report
from tests.probes.report.page_reading import LABELS, Shown, strings
from tests.probes.report.test_html import Elements, browse, needs_browser, scripted
from tests.probes.trainings import write_training

RATES = (7e-4, 1.4e-3, 2.8e-3)
OWN = {
    "The best of each model", "The curves", "All trainings", "As a table",
    "step", "tokens", "flops", "seconds", "cost",
    "The charts need JavaScript. The tables hold where each curve ends.",
}  # fmt: skip
BASE = {"rwkv4": 4.8, "transformer": 5.0}


def lost(model: str, rate: float, seed: int) -> float:
    """The loss that a training of the grid ends with."""
    return BASE[model] + 0.2 * abs(RATES.index(rate) - 1) + 0.01 * seed


def write(folder: Path, *runs: Path, price: Price | None = None) -> Report:
    return write_report([*runs], folder, 1024, 8192, False, price)


def record(report: Report) -> dict[str, Any]:
    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    text = (report.out / "trainings.json").read_text()
    found: dict[str, Any] = json.loads(text, parse_constant=refuse)
    return found


def says(report: Report) -> str:
    page = record(report)["page"]
    return " ".join([page["headline"], *page["warnings"], *page["paragraphs"]])


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three rates and four seeds of two models."""
    folder = tmp_path_factory.mktemp("runs") / "search"
    for model in BASE:
        for rate in RATES:
            for seed in range(4):
                write_training(folder, model, lost(model, rate, seed), seed, optim__lr=rate)
    return folder


@pytest.fixture(scope="module")
def grid(group: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    out = tmp_path_factory.mktemp("out") / "report"
    return write(out, group, price=Price(3.6, "EUR"))


def test_three_files_that_load_nothing(grid: Report) -> None:
    assert sorted(path.name for path in grid.out.iterdir()) == [
        "index.html", "trainings.csv", "trainings.json",
    ]  # fmt: skip
    text = (grid.out / "index.html").read_text()
    assert not re.search(r"https?://|@import|url\(|\bfetch\(", text)
    elements = Elements()
    elements.feed(text)
    assert elements.open == []


def test_the_page_says_what_the_record_holds(grid: Report) -> None:
    shown, told = Shown((grid.out / "index.html").read_text()), record(grid)["page"]
    known = strings(told) | LABELS | OWN
    assert [one for one in shown.texts if one not in known] == []
    words = {told["headline"], *told["paragraphs"], *told["facts"], told["bands"]}
    words |= {chart[key] for chart in told["charts"] for key in ("title", "caption")}
    words |= strings(told["best"]) | strings(told["trainings"])
    assert words - set(shown.texts) - {""} == set()
    drawn = [
        [
            (point["at"], point["value"], point["tip"])
            for one in chart["series"]
            for point in one["points"]
        ]
        for chart in shown.data["charts"]
    ]
    kept = [
        [
            (point["at"], point["value"], point["tip"])
            for one in chart["curves"]
            for point in one["points"]
        ]
        for chart in told["charts"]
    ]
    assert drawn == kept
    assert shown.data["rows"] == [list(one.values()) for one in record(grid)["trainings"]]


def test_numbers_are_those_of_the_trainings(grid: Report, group: Path) -> None:
    """Everything is computed here once more, from the folders."""
    found, page = record(grid), record(grid)["page"]
    assert [line[:1] + line[1:4] for line in page["best"]["rows"]] == [
        ["RWKV-4", "3", "12", "4.815 (4.800 to 4.830 over 4 seeds)"],
        ["Transformer", "3", "12", "5.015 (5.000 to 5.030 over 4 seeds)"],
    ]
    assert [line[4] for line in page["best"]["rows"]] == [
        "RWKV-4 lr 0.0014",
        "Transformer lr 0.0014",
    ]
    assert page["headline"] == "RWKV-4 predicts new text better than the Transformer."
    (pair,) = found["pairs"]
    assert (pair["obstacles"], pair["decided"]) == ([], True)
    assert pair["chance"] == pytest.approx(2 / 70)  # of 8 losses, the 4 lowest are of one model
    assert "by chance in 2.9 % of cases" in page["paragraphs"][0]
    said = "12 trainings of 3 settings of optim.lr (0.0007, 0.0014, 0.0028), seeds 0, 1, 2, 3"
    assert f"Both had the same search, {said}." in page["paragraphs"][0]
    assert not any("edge" in text for text in page["paragraphs"])

    validation, training, by_rate = page["charts"]
    assert (validation["title"], training["title"]) == (
        "Validation loss while training", "Training loss",
    )  # fmt: skip
    assert page["axes"].keys() == {"step", "tokens", "flops", "seconds", "cost"}
    curves = {one["arm"]: one["points"] for one in validation["curves"]}
    assert len(curves) == 6
    for model in BASE:
        for rate in RATES:
            ends = [lost(model, rate, seed) for seed in range(4)]
            for point in curves[f"{model} lr {rate:g}"]:
                step = point["at"]["step"]
                above = 3 * (1 - step / 100)
                assert point["value"] == pytest.approx(fmean(ends) + above)
                assert point["middle_half"] == pytest.approx([min(ends) + above, max(ends) + above])
                assert point["at"] == pytest.approx(
                    {"step": step, "tokens": 1024 * step, "flops": 1e9 * step,
                     "seconds": 0.5 * step, "cost": 0.5 * step * 3.6 / 3600}
                )  # fmt: skip
    assert by_rate["title"] == "Validation loss against optim.lr"
    places = {
        one["arm"]: {p["at"]["key"]: p["value"] for p in one["points"]} for one in by_rate["curves"]
    }
    assert places == {
        model: pytest.approx(
            {rate: fmean(lost(model, rate, seed) for seed in range(4)) for rate in RATES}
        )
        for model in BASE
    }
    with (grid.out / "trainings.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["name"] for row in rows} == {path.name for path in group.iterdir()}
    assert {row["name"] for row in rows} == {line[0] for line in page["trainings"]["rows"]}
    for row in rows:
        summary = json.loads((group / row["name"] / "summary.json").read_text())
        assert float(row["val_loss"]) == summary["val_loss"]
        assert (float(row["cost"]), row["currency"]) == (pytest.approx(0.05), "EUR")
        assert row["joules"] == ""


def test_the_terminal_has_the_answer(grid: Report) -> None:
    console = Console(file=StringIO(), width=300)
    print_table(grid, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.startswith("RWKV-4 predicts new text better than the Transformer.")


def test_a_search_that_differs_is_no_comparison(tmp_path: Path) -> None:
    for rate in RATES:
        write_training(tmp_path / "runs", "rwkv4", lost("rwkv4", rate, 0), optim__lr=rate)
    write_training(tmp_path / "runs", "transformer", 4.9, optim__lr=RATES[0])
    report = write(tmp_path / "out", tmp_path / "runs")
    headline = "RWKV-4 and the Transformer are not compared: they were not searched alike."
    assert record(report)["page"]["headline"] == headline
    assert "better" not in says(report).replace("looks better", "")
    assert "RWKV-4: 3 trainings of 3 settings of optim.lr (0.0007, 0.0014, 0.0028), seed 0" in says(
        report
    )
    one = "the Transformer: 1 training of one setting (optim.lr 0.0007), seed 0"
    assert one in says(report)


def test_what_was_given_up_is_drawn_and_never_the_best(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    write_training(runs, "rwkv4", 4.9, optim__lr=1e-3)
    write_training(runs, "rwkv4", 4.0, optim__lr=2e-3, summary={"ended_early": "pruned: above 3.9"})
    write_training(runs, "rwkv4", None, optim__lr=3e-3)
    write_training(runs, "transformer", None, optim__lr=3e-3)
    write_training(runs, "rwkv4", 3.0, optim__lr=4e-3, summary={"tokens": 51_200})
    cut = write_training(runs, "rwkv4", 3.5, optim__lr=5e-3, summary=None)
    (cut / "metrics.jsonl").write_text(
        '{"step": 1, "train/loss": NaN}\nnothing\n{"step": 2, "train/lo'
    )
    report = write(tmp_path / "out", runs)
    found, page = record(report), record(report)["page"]
    assert page["headline"] == "Validation loss at the end, in nats per token: RWKV-4 4.900."
    assert found["arms"][0]["ranked"] == ["rwkv4 lr 0.001"]
    # One corpus, one chart of each kind: that of an unfinished training is known by its keys.
    titles = ["Validation loss while training", "Training loss"]
    assert [chart["title"] for chart in page["charts"]] == titles
    assert page["best"]["rows"][0][1:5] == ["5", "5", "4.900", "RWKV-4 lr 0.001"]
    ends = {line[0]: line[-1] for line in page["trainings"]["rows"]}
    assert ends["rwkv4-lr0.002-s0"] == "ended early: pruned: above 3.9"
    assert ends["rwkv4-lr0.003-s0"] == "unfinished, last row at step 40"
    assert ends["rwkv4-lr0.001-s0"] == "finished, best setting"
    assert ends["rwkv4-lr0.005-s0"] == "unfinished, last row at step 1"
    assert "1 training that ended early" in says(report)
    assert "3 trainings without a summary" in says(report)
    assert "1 training on fewer tokens" in says(report)
    assert "Damaged rows of metrics were left out" in says(report)
    assert {"rwkv4-lr0.002-s0 (ended early)", "rwkv4-lr0.003-s0 (unfinished)"} <= set(
        page["names"].values()
    )


@pytest.mark.parametrize(
    ("seeds", "gap", "said"),
    [
        (1, 0.5, "both are of one seed, so how much of the difference is luck is not known"),
        (3, 0.005, "the bands of their seeds overlap"),
        (3, 0.5, "their bands lie apart, but with 3 and 3 seeds chance does that in 10 % of cases"),
    ],
)
def test_what_is_not_decided(tmp_path: Path, seeds: int, gap: float, said: str) -> None:
    for seed in range(seeds):
        write_training(tmp_path / "runs", "rwkv4", 4.8 + 0.01 * seed, seed)
        write_training(tmp_path / "runs", "transformer", 4.8 + gap + 0.01 * seed, seed)
    report = write(tmp_path / "out", tmp_path / "runs")
    assert "It is not decided whether RWKV-4 or the Transformer predicts new text" in says(report)
    assert said in says(report)
    assert "Neither was searched" in says(report)
    assert says(report).count("It is not decided whether") == 1
    page = Shown((report.out / "index.html").read_text())
    assert sum("It is not decided whether" in text for text in page.texts) == 1
    console = Console(file=StringIO(), width=300)
    print_table(report, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.count("It is not decided whether") == 1


def test_other_texts_and_tokenizers(tmp_path: Path) -> None:
    tokenizer = {"data_fingerprint": "0e1f"}
    write_training(tmp_path / "a", "rwkv4", 4.8)
    write_training(
        tmp_path / "a", "transformer", 2.4, summary={**tokenizer, "val_bits_per_byte": 2.5}
    )
    report = write(tmp_path / "one", tmp_path / "a")
    assert "losses are given in bits per byte of text" in says(report)
    assert "2.400 and 2.500 bits per byte" in says(report)
    assert record(report)["page"]["charts"][0]["axis"].endswith("bits per byte")
    text = {**tokenizer, "gzip_bits_per_byte": 1.0}
    write_training(tmp_path / "b", "transformer", 2.4, summary=text)
    report = write(tmp_path / "two", tmp_path / "a" / "rwkv4-s0", tmp_path / "b")
    assert "validated on 2 different texts" in says(report)
    assert record(report)["pairs"] == []
    titles = [chart["title"] for chart in record(report)["page"]["charts"]]
    assert len(titles) == 4 and titles[0] != titles[2]


def test_one_training_and_summaries_alone(tmp_path: Path) -> None:
    folder = write_training(tmp_path / "runs", "rwkv4", 4.8)
    (tmp_path / "one").mkdir()
    for name in ("index.html", "rows.csv"):  # no report of ours: nothing is known of what is here
        (tmp_path / "one" / name).write_text("<title>Another program's report</title>")
    report = write(tmp_path / "one", folder)
    assert (tmp_path / "one" / "rows.csv").is_file()
    assert record(report)["page"]["headline"].endswith("nats per token: RWKV-4 4.800.")
    (folder / "config.yaml").unlink()
    (folder / "metrics.jsonl").unlink()
    report = write(tmp_path / "two", folder)
    page = record(report)["page"]
    assert (page["charts"], page["axes"], page["names"]) == ([], {}, {})
    assert page["bands"].startswith("No row of metrics")


def test_trainings_of_one_name_and_odd_ones(tmp_path: Path) -> None:
    odd = {"name": "a · b"}
    for place in ("a", "b"):
        folder = write_training(tmp_path / place, "rwkv4", 4.8, summary=odd)
        (folder / "config.yaml").write_text("- 1\n" if place == "a" else "seed: [1]\nmodel: 3\n")
    report = write(tmp_path / "out", tmp_path / "a", tmp_path / "b")
    settings = record(report)["arms"][0]["settings"]
    assert len({one["name"] for one in settings}) == 2
    assert all(one["runs"] == ["a · b"] for one in settings)
    assert record(report)["keys"] == []  # of a configuration that is not known nothing differs
    formula = write_training(tmp_path / "c", "rwkv4", 4.8, summary={"name": "=1+1"})
    assert "\n'=1+1," in (write(tmp_path / "c", formula).out / "trainings.csv").read_text()
    lists = {"searched": ["x"], "training__price_per_hour": 2.0, "training__currency": ["EUR"]}
    folder = write_training(tmp_path / "lists", "rwkv4", 4.8, **lists)
    assert record(write(tmp_path / "there", folder))["arms"][0]["search"]["record"] is None
    shown = Shown((report.out / "index.html").read_text())
    assert len(shown.data["arms"]) == len({arm["label"] for arm in shown.data["arms"]}) == 2


def test_seeds_with_rows_at_other_steps_are_curves_with_ids_of_their_own(tmp_path: Path) -> None:
    for seed in range(2):
        folder = write_training(tmp_path / "runs", "rwkv4", 4.8, seed)
        rows = (folder / "metrics.jsonl").read_text().replace('0, "', f'{seed}, "')
        (folder / "metrics.jsonl").write_text(rows)
    page = record(write(tmp_path / "out", tmp_path / "runs"))["page"]
    for chart in page["charts"]:
        assert len({curve["arm"] for curve in chart["curves"]}) == len(chart["curves"]) == 2
    assert sorted(page["names"].values()) == ["rwkv4-s0", "rwkv4-s1"]


def test_what_trainings_say_they_cost(tmp_path: Path) -> None:
    priced = {"training__price_per_hour": 3.6, "training__currency": "CHF", "priced": 3.6}
    folder = write_training(tmp_path / "runs", "rwkv4", 4.8, **priced)
    write_training(tmp_path / "runs", "transformer", 4.8)
    lines = (folder / "metrics.jsonl").read_text().replace('"step"', '"train/joules": 70, "step"')
    (folder / "metrics.jsonl").write_text(lines)
    rows = record(write(tmp_path / "out", tmp_path / "runs"))["trainings"]
    spent = [tuple(row[key] for key in ("cost", "currency", "joules")) for row in rows]
    assert spent == [(pytest.approx(0.05), "CHF", 70), (None, None, None)]


def test_numbers_that_json_cannot_hold(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    write_training(runs, "rwkv4", 4.8)
    for seed, value in enumerate((float("nan"), float("inf")), 1):
        write_training(runs, "rwkv4", 4.7, seed, optim__lr=value)
    large = {"train_seconds": 1.7e308}
    folder = write_training(runs, "transformer", 4.9, summary=large)
    rows = [{"step": step, "train/cost": float("nan"), "train/loss": 1.7e308,
             "val/loss": 4.9, "train/flops": 1.7e308} for step in range(300)]  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = write(tmp_path / "out", runs)
    found = record(report)
    assert {one["name"] for one in found["trainings"]} == {"rwkv4-s0", "transformer-s0"}
    (warning,) = found["page"]["warnings"]
    assert warning.startswith("2 damaged lines or files were left out: ")
    assert "config.yaml: left out, optim.lr is not a finite number" in warning
    with pytest.raises(UserError, match=r"optim\.lr is not a finite number"):
        write(tmp_path / "none", runs / "rwkv4-lrnan-s1")
    assert not (tmp_path / "none").exists()


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Two models with two seeds, and two further texts; the name of one means two files."""
    folder = tmp_path_factory.mktemp("watched")
    for model in BASE:
        for seed in range(2):
            path = "b.txt" if model == "transformer" else "a.txt"
            texts = {"wiki": {"paths": "wiki.txt"}, "code": {"paths": path}}
            run = write_training(folder / "runs", model, lost(model, 1.4e-3, seed), seed,
                                 data__validation=texts)  # fmt: skip
            rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
            for row in rows:
                for number, name in enumerate(texts, 1):
                    if "val/loss" in row:
                        row[f"val/{name}/loss"] = row["val/loss"] + number
            (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return write(folder / "out", folder / "runs")


def test_named_texts_have_curves_of_their_own(watched: Report) -> None:
    """Each the mean of what the rows say of it, with its own ends in the table."""
    page = record(watched)["page"]
    assert page["heldouts"] == ["val", "val/wiki", "val/code"]
    charts = {chart["heldout"]: chart for chart in page["charts"]}
    assert [chart["heldout"] for chart in page["charts"]] == ["val", "val/wiki", "val/code", ""]
    assert "switch chooses the text" in page["bands"]
    for number, kind in enumerate(("val", "val/wiki", "val/code")):
        curves = {one["arm"].split()[0]: one["points"] for one in charts[kind]["curves"]}
        assert set(curves) == set(BASE)
        for model, points in curves.items():
            ends = [lost(model, 1.4e-3, seed) + number for seed in range(2)]
            assert len(points) == 5 and points[-1]["value"] == pytest.approx(fmean(ends))
            assert points[-1]["middle_half"] == pytest.approx(ends)
            assert points[-1]["at"]["tokens"] == 102_400
    assert charts["val/wiki"]["title"] == "Validation loss on wiki while training"
    assert "same words" not in charts["val/wiki"]["caption"]
    assert "Not all of these trainings describe" in charts["val/code"]["caption"]


def test_a_page_without_named_texts_has_no_switch(grid: Report) -> None:
    assert record(grid)["page"]["heldouts"] == ["val"]
    assert "data-heldout=" not in (grid.out / "index.html").read_text()


def test_many_named_texts_are_counted(tmp_path: Path) -> None:
    run = write_training(tmp_path / "runs", "rwkv4", 4.8)
    row = {"step": 100, **{f"val/t{number}/loss": 3.0 for number in range(20)}, "val/<b>/loss": 1.0}
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    page = record(write(tmp_path / "out", run))["page"]
    assert page["heldouts"] == ["val", *(f"val/t{number}" for number in range(12))]
    assert "Of 20 named ones the first 12 are drawn." in page["bands"]


# ---- in a browser --------------------------------------------------------------------------------


@needs_browser
def test_charts_follow_the_switch_of_axes(tmp_path: Path, grid: Report) -> None:
    actions = """
      const ends = () => [...document.querySelectorAll('.curve')].length;
      const texts = () => [...document.querySelector('.plot').querySelectorAll('text')];
      const labels = () => texts().map((one) => one.textContent).join('|');
      document.body.dataset.first = ends() + ':' + labels();
      document.querySelector('[data-axis="cost"]').click();
      document.body.dataset.cost = ends() + ':' + labels();
      document.querySelector('[data-scale="log"]').click();
      document.querySelector('[data-arm="rwkv4 lr 0.0014"]').click();
      const plot = document.querySelector('.plot');
      plot.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight'}));
      document.body.dataset.tip = plot.querySelector('.tip').innerText;
      document.body.dataset.last = ends();
    """
    dom = browse(tmp_path, scripted(tmp_path, grid.out / "index.html", actions))
    body = dom[dom.index("<body") : dom.index("<main")]
    assert "data-error" not in dom and "NaN" not in dom and 'data-charts="3"' in dom
    assert 'data-first="14:' in body and "optimizer steps" in body
    assert 'data-cost="14:' in body and "cost, EUR" in body and 'data-last="12"' in body
    assert "7.215" not in body and "step 20" in body


@needs_browser
def test_one_of_the_texts_that_validate_is_shown(tmp_path: Path, watched: Report) -> None:
    actions = """
      const curves = (one) => one.querySelectorAll('.curve').length;
      const seen = () => [...document.querySelectorAll('figure')].filter((one) => one.offsetParent)
        .map((one) => one.querySelector('h3').textContent + ' ' + curves(one)).join('|');
      document.body.dataset.first = seen();
      document.querySelector('[data-heldout="val/code"]').click();
      document.body.dataset.code = seen();
      document.querySelector('[data-axis="flops"]').click();
      document.querySelector('[data-heldout="val"]').click();
      document.body.dataset.back = seen();
      document.body.dataset.pressed = [...document.querySelectorAll('[data-heldout]')]
        .map((one) => one.textContent + one.ariaPressed).join('|');
    """
    dom = browse(tmp_path, scripted(tmp_path, watched.out / "index.html", actions))
    body = dom[dom.index("<body") : dom.index("<main")]
    both = "Validation loss while training 2|Training loss 2"
    assert "data-error" not in dom and "NaN" not in dom and 'data-charts="4"' in dom
    assert f'data-first="{both}"' in body and f'data-back="{both}"' in body
    code = "Validation loss on code while training 2|Training loss 2"
    assert f'data-code="{code}"' in body
    assert 'data-pressed="valtrue|val/wikifalse|val/codefalse"' in body


@needs_browser
def test_a_key_without_numbers_and_gaps_are_drawn(tmp_path: Path) -> None:
    for schedule, value in (("cosine", 4.8), ("linear", 4.9)):
        folder = write_training(tmp_path / "runs", "gpt", value, optim__schedule=schedule)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for row in rows[::2]:
        row.pop("train/tokens"), row.update({"train/loss": None})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = write(tmp_path / "out", tmp_path / "runs")
    dom = browse(tmp_path, report.out / "index.html")
    assert "data-error" not in dom and "NaN" not in dom and 'data-charts="3"' in dom
    assert ">cosine</text>" in dom and ">linear</text>" in dom


@needs_browser
def test_copied_rows_are_those_of_the_csv_file(tmp_path: Path) -> None:
    names = {"name": '=HYPERLINK("a",1)'}
    folder = write_training(tmp_path / "runs", "rwkv4", 4.8, summary=names)
    report = write(tmp_path / "out", folder)
    script = """Object.defineProperty(navigator, "clipboard", {value: {
        writeText: async (text) => { document.body.dataset.copied = JSON.stringify(text); } }});
        document.getElementById("copy").click();"""
    dom = browse(tmp_path, scripted(tmp_path, report.out / "index.html", script))
    (text,) = re.findall('data-copied="(.*?)"', dom)
    with (report.out / "trainings.csv").open(newline="") as file:
        rows = [*csv.reader(file)]
    copied = [*csv.reader(StringIO(json.loads(unescape(text)), newline=""))]
    assert [row[0] for row in copied] == [row[0] for row in rows]
    assert copied[1][0] == "'" + names["name"]


def test_a_task_is_not_called_a_text(tmp_path: Path) -> None:
    for model, loss in (("rwkv4", 0.2), ("transformer", 0.4)):
        fields = {"val_bits_per_byte": None, "val_accuracy": 0.9, "val_exact_match": 0.5}
        write_training(tmp_path / "runs", model, loss, summary=fields)
    report = write(tmp_path / "out", tmp_path / "runs")
    said = says(report)
    assert "whether RWKV-4 or the Transformer predicts new sequences better" in said
    assert "new text" not in said
