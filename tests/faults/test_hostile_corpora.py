"""The short form of the trials of corpora, and that they would notice what goes wrong."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.errors import UserError
from data import manifest, store
from tests.faults import hostile, prepared
from tests.faults.corpora import trials
from tests.faults.hostile import tell
from tests.faults.prepared import HARMS, Prepared
from tests.faults.sources import SOURCES


def test_nothing_is_believed(tmp_path: Path) -> None:
    done = list(trials(5, 0, tmp_path))
    assert len(done) == 5
    assert [problem for _, problem in done if problem] == []


def test_trials_are_many_and_drawn_with_their_seed(tmp_path: Path) -> None:
    assert len(HARMS) >= 20 and len(SOURCES) >= 9
    places = [tmp_path / name for name in "abc"]
    for place in places:
        place.mkdir()
    first, again, other = (
        [what.replace(str(place), "") for what, _ in trials(3, seed, place)]
        for place, seed in zip(places, (1, 1, 2), strict=True)
    )
    assert first == again != other


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prepared]:
    yield Prepared(tmp_path_factory.mktemp("lab") / "prepared")


def verdict(lab: Prepared, place: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> str | None:
    """Of a trial with one kind of harm."""
    monkeypatch.setattr(prepared, "HARMS", {name: HARMS[name]})
    return lab.trial(place, random.Random(0))[1]


def test_a_store_that_is_believed_is_noticed(
    lab: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "one bit flipped, as by a damaged disk"
    for folder in "ab":
        (tmp_path / folder).mkdir()
    assert verdict(lab, tmp_path / "a", monkeypatch, name) is None
    monkeypatch.setattr(manifest.Blocks, "fits", lambda *_: True)
    assert verdict(lab, tmp_path / "b", monkeypatch, name) == "other bits are trained on"


def test_silence_is_noticed(lab: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "say", lambda line: None)
    assert "without one sentence" in (verdict(lab, tmp_path, monkeypatch, "deleted") or "")


def fails(error: BaseException) -> Any:
    def function() -> None:
        raise error

    return function


def test_how_a_call_ends_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (tell(lambda: 3).value, tell(lambda: 3).problem) == (3, None)
    assert tell(fails(UserError("no"))).message == "no"
    assert "not one short message" in (tell(fails(UserError("a\nb"))).problem or "")
    assert "a traceback: ValueError: a bug" in (tell(fails(ValueError("a bug"))).problem or "")
    monkeypatch.setattr(hostile, "BUSY", 0.05)
    assert tell(lambda: time.sleep(60)).problem == "hangs"
