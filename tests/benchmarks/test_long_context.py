"""The benchmark of long contexts: real points in children, and failures as rows."""

from __future__ import annotations

import sys

import pytest

from benchmarks import long_context


def rows(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: str) -> list:
    """Cells of the table that `long_context.py --size tiny WORDS` prints."""
    monkeypatch.setattr(sys, "argv", ["long_context.py", "--size", "tiny", *words.split()])
    capfd.readouterr()
    long_context.main()
    lines = [line for line in capfd.readouterr().out.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_models_read_as_they_can(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "--models rwkv4 gpt --lengths 96 48 --segment 32"
    cells = rows(capfd, monkeypatch, words)
    assert [one[:3] for one in cells] == [
        ["rwkv4, segments of 32", "48", "ok"],
        ["rwkv4, segments of 32", "96", "ok"],
        ["gpt, whole, blocks recomputed", "48", "ok"],
        ["gpt, whole, blocks recomputed", "96", "ok"],
    ]
    assert {one[5] for one in cells[::2]} == {"1.00"}


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux only")
def test_where_memory_ends_is_a_row_and_the_last(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "--models transformer --lengths 64 400000 500000 --memory-gib 0.25"
    first, last = rows(capfd, monkeypatch, words)
    assert first[2] == "ok"
    assert last[1] == "400,000" and last[2].startswith("oom: ")
