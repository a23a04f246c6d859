"""Texts that models wrote stand side by side, as far as a page can hold them."""

from __future__ import annotations

import json
from pathlib import Path

from probes.analysis.analysis import analyse
from probes.analysis.dataset import collect
from probes.report import written
from probes.report.html import page
from probes.report.write import compose
from tests.probes.synthetic import make_rows, make_summary, write_run


def test_the_last_text_of_each_training_is_shown(tmp_path: Path) -> None:
    runs = (make_summary("rwkv4", 3.3), make_summary("gpt", 3.2))
    folder = write_run(tmp_path / "run", make_rows(probes=("train",), fixed=False), *runs)
    rows = [
        {"step": 40, "prompt": "def ", "text": "early"},
        {"step": 160, "prompt": "def ", "text": "</pre><b>\x00 x\n    return"},
        {"step": 161, "prompt": "def ", "text": "\ud800 no file holds this"},
        {"step": "160", "prompt": "def ", "text": "not one"},
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows) + "broken"
    (folder / "rwkv4-tiny" / "samples.jsonl").write_text(lines)
    long = {"step": 1, "prompt": "def ", "text": "x" * 5000}
    (folder / "gpt-tiny" / "samples.jsonl").write_text(json.dumps(long) + "\n")
    dataset = collect([folder])
    mine, other = written.samples(dataset)
    assert (mine.name, mine.where) == ("RWKV-4", "at step 160 of its training")
    assert mine.text == "</pre><b>\ufffd x\n    return"
    assert len(other.text) == written.MOST and other.text.endswith("…")
    assert "given the same beginning, in bold" in written.note((mine, other))
    report = compose(analyse(dataset, (256, 4096)), tmp_path)
    text = page(report.analysis, report.contents)
    assert "&lt;/pre&gt;&lt;b&gt;" in text and "What each wrote" in text
    text.encode()


def test_without_texts_nothing_is_said(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", make_rows(fixed=False), make_summary("rwkv4", 3.3))
    assert written.samples(collect([folder])) == () and written.note(()) == ""
