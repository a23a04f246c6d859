"""The first screen says how its numbers were had, and what was compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from probes.analysis.analysis import Analysis, analyse
from probes.analysis.dataset import collect
from probes.report import first_screen
from probes.report.first_screen import Mark
from probes.rows import Row
from tests.probes.synthetic import failed, make_row, make_rows, make_summary, write_run

FAR = 35_000
PROBES = ("prefill", "decode")


def analysed(folder: Path, rows: Sequence[Row], *runs: dict[str, Any]) -> Analysis:
    return analyse(collect([write_run(folder / "run", list(rows), *runs)]), (256, 4096))


def marks(analysis: Analysis) -> list[tuple[Mark, ...]]:
    found = first_screen.feeling(analysis)
    assert found is not None
    return [card.marks for card in found.cards]


def test_what_was_measured_is_called_so(tmp_path: Path) -> None:
    rows = [make_row(who, probe, FAR) for who in ("rwkv4", "gpt") for probe in PROBES]
    rows += make_rows(probes=PROBES, fixed=False)
    analysis = analysed(tmp_path, rows)
    wait, pace, memory = marks(analysis)
    assert [(one.text, one.note) for one in wait] == [("14.0 s", "measured"), ("152 s", "measured")]
    assert [one.text for one in pace] == ["179", "34.8"]
    assert [one.text for one in memory] == ["0.184 MB", "1.29 GB"]
    assert [one.share for one in pace] == [1, pytest.approx(34.8 / 179, rel=1e-2)]
    found = first_screen.feeling(analysis)
    assert found is not None and found.title == "With a document of 50 pages"
    assert not any("predicted" in text for text in found.how)


def test_what_was_not_is_called_predicted_with_its_range(tmp_path: Path) -> None:
    rows = [
        *make_rows(probes=PROBES, fixed=False),
        failed("gpt", "decode", FAR, "timeout", token_seconds=[]),
    ]
    analysis = analysed(tmp_path, rows)
    wait, pace, memory = marks(analysis)
    assert all(one.text.startswith("about ") for one in wait)
    assert all(one.note.startswith("predicted, ") and " to " in one.note for one in wait)
    assert pace[1].text == "did not finish within the time limit" and pace[1].share is None
    assert [one.note for one in memory] == ["calculated", ""]
    found = first_screen.feeling(analysis)
    assert found is not None
    assert "measured up to 8,192 tokens only" in found.how[0]
    assert found.how[-1].endswith("lengths=[35000] probes=[prefill,decode].")


def test_what_is_not_known_says_how_far_it_was_measured(tmp_path: Path) -> None:
    rows = [make_row(who, "prefill", 256) for who in ("rwkv4", "gpt")]
    (wait,) = marks(analysed(tmp_path, rows))
    assert [one.text for one in wait] == ["not known"] * 2
    assert wait[0].note == "102 ms after 256 tokens"


def test_small_models_are_told_from_those_that_people_know(tmp_path: Path) -> None:
    runs = (make_summary("rwkv4", 3.3), make_summary("gpt", 3.2))
    who, limits = first_screen.compared(analysed(tmp_path / "a", make_rows(fixed=False), *runs))
    assert who.startswith(
        "Compared here: RWKV-4 (10.0 million parameters, trained on 409,600 tokens"
    )
    assert "billions of parameters and have read more than a thousand times" in limits
    large = [make_row("gpt", "decode", 256, parameters=7 * 10**9)]
    who, limits = first_screen.compared(analysed(tmp_path / "b", large))
    assert who == "Measured here: GPT (7,000 million parameters)."
    assert limits == "Other sizes, trainings and machines may give another answer."
