"""The files of a report, from rows whose answer is known."""

from __future__ import annotations

import csv
import errno
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from core.errors import UserError
from probes.analysis.analysis import analyse
from probes.analysis.dataset import collect
from probes.report.html import page
from probes.report.rows_csv import COLUMNS
from probes.report.write import Report, compose, print_table, write_report
from tests.probes.synthetic import (
    TRAIN_CROSSOVER,
    failed,
    make_row,
    make_rows,
    make_summary,
    write_run,
)


def summary_of(out: Path) -> dict[str, Any]:
    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    text = (out / "crossover.json").read_text()
    found: dict[str, Any] = json.loads(text, parse_constant=refuse)
    return found


ROWS = [*make_rows(), failed("gpt", "train", 16384, "oom", command='a "b", c')]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Two models, trained and probed, written over an older report."""
    runs = (make_summary("rwkv4", 3.3), make_summary("gpt", 3.2))
    run = write_run(tmp_path_factory.mktemp("runs") / "run", ROWS, *runs)
    out = run / "report"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    (out / "index.html").write_text("<title>Crossover report: trainings of LSTM</title>")
    for name in ("trainings.json", "trainings.csv", "largest_batch.png"):
        (out / name).write_text("of that page")
    return write_report([run], out, 1024, 8192, False)


def test_all_files_and_nothing_else(report: Report) -> None:
    out = report.out
    assert sorted(path.name for path in out.iterdir()) == [
        "crossover.json", "crossover.png", "decode.png", "index.html", "memory.png",
        "memory_inference.png", "notes.txt", "prefill.png", "rows.csv", "train_time.png",
    ]  # fmt: skip
    assert (out / "index.html").read_text().startswith("<!doctype html>")
    assert not [path for path in out.parent.iterdir() if path.name.startswith(".")]
    assert report.summary == summary_of(out)


def test_crossover_json(report: Report) -> None:
    found = summary_of(report.out)

    train = found["crossovers"]["train"]
    assert train["length"] == pytest.approx(TRAIN_CROSSOVER, rel=0.05)
    assert train["low"] < train["length"] < train["high"]
    assert train["models"] == ["rwkv4", "gpt"]
    assert train["sweep"] == "batch_1"
    assert train["interval"] == "95 % bootstrap"
    assert "none_in_range" not in train
    assert train["multiplicity"] == 1
    assert found["crossovers"]["train_fixed_tokens"]["sweep"] == "fixed_tokens"
    for key, who in (("memory", "never cheaper"), ("state", "cheaper at every length")):
        entry = found["crossovers"][key]
        assert entry["none_in_range"] is True
        assert who in entry["reason"]
        assert "length" not in entry
        assert (entry["multiplicity"], entry["between"]) == (0, None)

    slopes = found["slopes"]
    assert slopes["rwkv4"]["prefill"]["value"] == pytest.approx(1, abs=0.02)
    assert slopes["rwkv4"]["prefill"]["linear"] is True
    assert slopes["rwkv4"]["prefill"]["window"] == [1024, 8192]
    assert 1.3 < slopes["gpt"]["prefill"]["value"] < 2
    assert slopes["gpt"]["prefill"]["linear"] is False
    assert slopes["gpt"]["state"]["low"] is None
    assert slopes["gpt"]["prefill"]["aicc"] is None  # six points
    quadratic = slopes["gpt"]["prefill"]["quadratic"]
    assert quadratic["low"] < 1.2e-7 < quadratic["high"]
    assert slopes["gpt"]["state"]["quadratic"] == {"c": 0, "low": None, "high": None}

    gpt = found["models"]["gpt"]
    assert gpt["parameters"] == 10_050_000
    assert (gpt["val_loss"], gpt["bits_per_byte"], gpt["trainings"]) == (3.2, 2.0, ["gpt-tiny"])
    assert gpt["backends"] == {"attention": ["flash"]}
    assert found["baselines"] == {
        "unigram_entropy": 6.5, "gzip_bits_per_byte": 2.4, "xz_bits_per_byte": 2.0,
    }  # fmt: skip
    machine = found["machine"]
    assert (machine["device"], machine["threads"], machine["precision"]) == (
        "Test CPU", "2", "float32",
    )  # fmt: skip
    assert machine["versions"]["torch"] == "2.13.0"
    assert machine["command"] == ["python scripts/probe.py -m model=rwkv4,gpt", 'a "b", c']
    assert [one["status"] for one in found["failures"]] == ["oom"]


@pytest.mark.usefixtures("no_pictures")
def test_several_pairs_are_keyed_by_pair(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", make_rows(("rwkv4", "gpt", "transformer"), fixed=False))
    report = write_report([run], tmp_path / "out", 1024, 8192, False)
    keys = list(report.summary["crossovers"])
    assert keys[:2] == ["train:rwkv4/gpt", "train:rwkv4/transformer"]
    assert len(keys) == 2 * 8
    assert report.summary["baselines"]["gzip_bits_per_byte"] is None


@pytest.mark.usefixtures("no_pictures")
def test_failures_name_the_variant(tmp_path: Path) -> None:
    config = ROWS[0].config | {"attention": "math"}
    lost = failed("gpt", "train", 8192, "oom", config=config)
    report = write_report(
        [write_run(tmp_path / "run", [*make_rows(fixed=False), lost])],
        tmp_path / "out", 1024, 8192, False,
    )  # fmt: skip
    assert [one["model"] for one in report.summary["failures"]] == ["gpt math"]
    assert ">gpt math<" in (tmp_path / "out" / "index.html").read_text()


def test_csv_holds_every_row(report: Report) -> None:
    with (report.out / "rows.csv").open(newline="") as file:
        head, *lines = csv.reader(file)
    assert tuple(head) == COLUMNS
    assert len(lines) == len(ROWS)
    by_name = dict(zip(head, lines[0], strict=True))
    assert json.loads(by_name["seconds"]) == ROWS[0].seconds
    assert float(by_name["seconds_lower_quartile"]) == np.quantile(ROWS[0].seconds, 0.25)
    assert by_name["is_disturbed"] == "False"
    last = dict(zip(head, lines[-1], strict=True))
    assert (last["status"], last["command"], last["seconds_lower_quartile"]) == (
        "oom",
        'a "b", c',
        "",
    )


def test_a_refusal_writes_nothing(tmp_path: Path) -> None:
    odd = make_rows(("gpt",), fixed=False)[0]
    other = type(odd)(**{**odd.__dict__, "precision": "bfloat16"})
    run = write_run(tmp_path / "run", [*make_rows(), other])
    with pytest.raises(UserError, match="precision differs"):
        write_report([run], tmp_path / "out", 1024, 8192, False)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_pictures")
def test_unlike_rows_and_damaged_lines_are_told_at_the_top(tmp_path: Path) -> None:
    odd = make_row("gpt", "train", 256, precision="bfloat16", seed=1)
    run = write_run(tmp_path / "run", [*make_rows(), odd])
    with (run / "probes.jsonl").open("a") as rows:
        rows.write("broken\n")
    report = write_report([run], tmp_path / "out", 1024, 8192, True)
    text = (tmp_path / "out" / "index.html").read_text()
    top = text.split('class="story"')[0]
    lines = len(make_rows())
    file = run / "probes.jsonl"
    mixed = f"precision differs: float32 ({file}, line 1) and bfloat16 ({file}, line {lines + 1})"
    damaged = f"{file}, line {lines + 2}: left out, not JSON (Expecting value at character 1)"
    for told in (mixed, damaged):
        assert told in top
    summary = summary_of(tmp_path / "out")
    assert (summary["mixed"], summary["damaged"]) == ([mixed], [damaged])
    console = Console(width=500, record=True, file=(tmp_path / "terminal.txt").open("w"))
    print_table(report, console)
    assert console.export_text().startswith("Unlike measurements are compared here, as was asked")


@pytest.mark.usefixtures("no_pictures")
def test_several_processes_are_told(tmp_path: Path) -> None:
    rows = [
        make_row(row.model, row.probe, row.context_length, process=process)
        for process in range(5)
        for row in make_rows(fixed=False)
    ]
    run = write_run(tmp_path / "run", rows)
    report = write_report([run], tmp_path / "out", 1024, 8192, False)
    text = (tmp_path / "out" / "index.html").read_text()
    assert "5 fresh processes spread over the sweep" in text
    assert "(seed 0)" in text
    weights = report.summary["slopes"]["gpt"]["prefill"]["aicc"]
    assert max(weights, key=weights.get) == "a + bT + cT^2"
    assert "a + bT + cT² (100" in text


def printed(report: Report, folder: Path, width: int = 80) -> str:
    console = Console(width=width, record=True, file=(folder / "terminal.txt").open("w"))
    print_table(report, console)
    return console.export_text()


def test_the_terminal_fits_80_columns(report: Report, tmp_path: Path) -> None:
    text = printed(report, tmp_path)
    assert max(map(len, text.splitlines())) <= 80 and "…" not in text
    cells = {words[0]: words[1:] for line in text.splitlines() if (words := line.split())}
    assert cells["256"][:5] == ["2.26", "s", "1.15", "s", "1.97"]
    assert cells["16,384"] == ["oom"]
    flat = " ".join(text.split())
    train = report.summary["crossovers"]["train"]
    low, high = (f"{float(f'{train[end]:.3g}'):,.0f}" for end in ("low", "high"))
    assert "RWKV-4 trains faster than GPT" in flat
    assert f"(95 % interval {low} to {high} tokens); not compared above 8,192 tokens." in flat
    assert "memory: RWKV-4 needs more peak training memory than GPT" in flat
    assert "fixed_tokens" not in text and "Slopes" not in text and "index.html" not in text
    assert "disturbed" not in text, "these rows do not know"


@pytest.mark.usefixtures("no_pictures")
def test_long_names_are_folded_and_not_cut(tmp_path: Path) -> None:
    config = ROWS[0].config | {"attention": "math", "window": 2048}
    rows = [*make_rows(("rwkv4",), fixed=False)]
    rows += [replace(row, config=config) for row in make_rows(("gpt",), fixed=False)]
    options = {"attention": "math", "window": 2048}
    rows = [replace(row, options=options) if row.model == "gpt" else row for row in rows]
    run = write_run(tmp_path / "run", rows)
    text = printed(write_report([run], tmp_path / "out", 1024, 8192, False), tmp_path, width=60)
    assert max(map(len, text.splitlines())) <= 60 and "…" not in text
    head = text.split("64")[0]
    assert all(word in head for word in ("context", "ratio", "train", "decode", "math", "window"))


@pytest.mark.parametrize(
    ("visits", "bad", "told"),
    [
        (0, 0, "Of {n} measurements, none was disturbed by other processes."),
        (0, 1, "Of {n} measurements, 1 is disturbed by other processes."),
        (3, 0, "Of {n} measurements, 3 were made again, because other processes disturbed them or "
         "what they are compared with; none is disturbed now."),
        (3, 2, "Of {n} measurements, 3 were made again, because other processes disturbed them or "
         "what they are compared with; 2 are still disturbed."),
    ],
)  # fmt: skip
def test_the_machine_is_told(tmp_path: Path, visits: int, bad: int, told: str) -> None:
    rows = [
        replace(row, disturbed=[place < bad] * len(row.seconds), visit=int(place < visits))
        for place, row in enumerate(make_rows(fixed=False))
    ]
    report = compose(analyse(collect([write_run(tmp_path / "run", rows)]), (1024, 8192)), tmp_path)
    expected = told.format(n=len(rows))
    counts = {
        "finished": len(rows), "measured_again": visits, "repetitions": visits, "disturbed": bad,
        "failed": 0,
    }  # fmt: skip
    assert report.summary["machine"]["quiet"] == counts
    assert expected in " ".join(printed(report, tmp_path).split())
    text = page(report.analysis, report.contents).replace("\u00a0", " ")
    assert text.index("<h1") < text.index(expected) < text.index('class="story"')


@pytest.mark.usefixtures("no_pictures")
def test_a_disturbed_cell_is_marked_and_fits(tmp_path: Path) -> None:
    rows = [
        replace(row, disturbed=[row.context_length == 512] * len(row.seconds))
        for row in make_rows(fixed=False)
    ]
    run = write_run(tmp_path / "run", rows)
    text = printed(write_report([run], tmp_path / "out", 1024, 8192, False), tmp_path)
    lines = text.splitlines()
    assert [line.count("*") for line in lines if line.split()[:1] == ["512"]] == [4]
    assert "* disturbed by other processes: decides nothing" in lines
    assert sum(line.count("*") for line in lines) == 5
    assert max(map(len, lines)) <= 80


def test_old_rows_do_not_know_how_quiet_it_was(report: Report, tmp_path: Path) -> None:
    assert report.summary["machine"]["quiet"] is None
    assert "measurements, " not in printed(report, tmp_path)


@pytest.mark.usefixtures("no_pictures")
def test_a_measure_that_is_all_disturbed_is_not_silently_left_out(tmp_path: Path) -> None:
    rows = make_rows(probes=("train", "ttft"), fixed=False)
    rows = [replace(row, disturbed=[row.probe == "ttft"] * len(row.seconds)) for row in rows]
    run = write_run(tmp_path / "run", rows)
    report = write_report([run], tmp_path / "out", 1024, 8192, False)
    entry = report.summary["crossovers"]["ttft"]
    assert entry["kind"] == "missing" and "disturbed by other work" in entry["reason"]
    assert "Time to the first token" in (tmp_path / "out" / "index.html").read_text()


def test_what_cannot_be_written_is_said_and_leaves_the_old_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, out = write_run(tmp_path / "run", make_rows(fixed=False)), tmp_path / "out"
    out.mkdir()
    (out / "index.html").write_text("old")

    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("probes.report.write._write", full)
    with pytest.raises(UserError, match=r"out cannot be written \(No space left on device\)"):
        write_report([run], out, 1024, 8192, False)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["out", "run"]
    assert (out / "index.html").read_text() == "old"
    with pytest.raises(UserError, match="cannot be written"):
        write_report([run], run / "probes.jsonl", 1024, 8192, False)
