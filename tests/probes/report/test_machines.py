"""The map of crossover lengths: this report's beside those of others, which nobody has to trust."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

import pytest

from core.errors import UserError
from probes.analysis.metrics import BY_KEY
from probes.report.foreign_reports import MOST, NAME, digest_of, read_reports
from probes.report.machines import HERE, Others
from probes.report.write import Report, write_report
from probes.rows import append_rows
from tests.faults.reports import Page
from tests.probes.trainings import write_training
from tests.registered_models import spec_of
from tests.scripts.test_verify import LENGTHS, rows


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ours")
    specs = [spec_of("rwkv4", n_embd=32), spec_of("gpt", n_embd=32)]
    append_rows(folder / "probes.jsonl", rows(specs, LENGTHS))
    return folder


def report_of(group: Path, out: Path, others: Others | None) -> Report:
    return write_report([group], out, 64, 128, allow_mixed=False, others=others)


def foreign(folder: Path, **changes: Any) -> Path:
    """A report of another machine with one crossover."""
    entry = {"kind": "cheaper above", "models": ["rwkv4", "gpt"], "length": 500.0} | {
        "low": 450.0, "high": 600.0,
    }  # fmt: skip
    machine = {"device": "Other CPU", "threads": "8", "commit": "f" * 40, "date": "2026-12-01T00"}
    content: dict[str, Any] = {"crossovers": {"train": entry}, "machine": machine} | changes
    folder.mkdir()
    (folder / NAME).write_text(json.dumps(content | {"digest": digest_of(content)}))
    return folder / NAME


def test_a_map_has_each_machine_and_only_where_it_was_asked_for(
    group: Path, tmp_path: Path
) -> None:
    reports, problems = read_reports([str(foreign(tmp_path / "one").parent)])
    assert not problems
    made = report_of(group, tmp_path / "out", Others(tuple(reports)))
    content = json.loads((tmp_path / "out" / NAME).read_text())
    assert content["digest"] == digest_of(content)
    found = content["others"]["crossovers"]
    assert {one["measure"] for one in found} <= set(BY_KEY) and found[0]["digest"] == HERE
    (theirs,) = [one for one in found if one["digest"] != HERE]
    assert (theirs["length"], theirs["low"], theirs["high"]) == (500, 450, 600)
    assert (theirs["device"], theirs["commit"]) == ("Other CPU", "f" * 12)
    assert str(tmp_path) not in json.dumps(found)  # whoever reads it has other folders
    page = (tmp_path / "out" / "index.html").read_text()
    assert "The same on other machines" in page and "Other CPU" in page
    assert made.contents is not None and made.contents.machines is not None
    assert made.contents.machines.ticks == (256, 512, 1024)
    report_of(group, tmp_path / "alone", None)
    assert "others" not in json.loads((tmp_path / "alone" / NAME).read_text())
    assert "other machines" not in (tmp_path / "alone" / "index.html").read_text()


def test_what_cannot_be_believed_is_named_and_left_out(tmp_path: Path) -> None:
    sound = foreign(tmp_path / "sound")
    again = foreign(tmp_path / "again")
    newer = foreign(tmp_path / "newer", crossovers=[1, 2])
    huge = foreign(tmp_path / "huge", crossovers={str(n): {} for n in range(MOST + 1)})
    cut = foreign(tmp_path / "cut", machine={})
    cut.write_text(cut.read_text()[:-20])
    wrong = foreign(tmp_path / "wrong", machine={"device": "x"})
    wrong.write_text(wrong.read_text().replace('"x"', '"y"'))
    words = [*map(str, (sound, again, newer, huge, cut, wrong)), str(tmp_path / "none")]
    reports, problems = read_reports(words)
    assert [one.path for one in reports] == [sound]
    for path, said in (
        (again, "the same report again"), (newer, "has no crossovers that this version can read"),
        (huge, "1,001 crossovers, more than 1,000"), (cut, "left out"),
        (wrong, "its digest is not that of its content"), (tmp_path / "none", "no such file"),
    ):  # fmt: skip
        (problem,) = [one for one in problems if one.startswith(f"{path}")]
        assert said in problem and problem.count("\n") == 0


def test_hostile_words_and_numbers_are_text_or_nothing(group: Path, tmp_path: Path) -> None:
    script = "<script>alert(1)</script>"
    entry = {"kind": script, "models": [script, "<img src=x onerror=y>"], "length": 300.0}
    odd = {
        "train": entry | {"low": 900.0, "high": -5.0},
        "decode": entry | {"length": -3.0},
        "memory": entry | {"length": 1e300},
        "prefill": entry | {"models": "rwkv4"},
        script: entry,
    }
    machine = {"device": script, "commit": ["x"], "date": {"a": 1}, "threads": "\x1b[31m"}
    reports, _ = read_reports([str(foreign(tmp_path / "one", crossovers=odd, machine=machine))])
    report_of(group, tmp_path / "out", Others(tuple(reports), (f"{script}: left out",)))
    content = json.loads((tmp_path / "out" / NAME).read_text())
    theirs = [one for one in content["others"]["crossovers"] if one["digest"] != HERE]
    assert [one["measure"] for one in theirs] == ["train"]
    assert (theirs[0]["low"], theirs[0]["high"], theirs[0]["commit"]) == (None, None, "")
    page = (tmp_path / "out" / "index.html").read_text()
    assert script not in page and escape(script) in page and "\x1b" not in page
    looked = Page()
    looked.feed(page)
    assert not looked.odd


def test_where_nothing_was_probed_there_is_no_map(tmp_path: Path) -> None:
    write_training(tmp_path / "group", "rwkv4", 2.0)
    with pytest.raises(UserError, match="others= puts crossovers of other machines beside"):
        report_of(tmp_path / "group", tmp_path / "out", Others())
