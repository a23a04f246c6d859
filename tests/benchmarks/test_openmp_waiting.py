"""Threads that wait asleep: what a row compares."""

from __future__ import annotations

import pytest

from benchmarks import openmp_waiting
from benchmarks.harness import Samples
from benchmarks.training_step import small_rwkv


def test_a_row_has_the_cost_of_sleep_and_of_company(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(rounds: int, threads: int) -> dict[openmp_waiting.Case, Samples]:
        taken = {("asleep", 0): 0.2, ("asleep", 1): 0.3, ("spinning", 0): 0.1, ("spinning", 1): 0.9}
        return {
            (way, work, beside): Samples((seconds,) * rounds)
            for work in openmp_waiting.WORKS
            for (way, beside), seconds in taken.items()
        }

    monkeypatch.setattr(openmp_waiting, "measure", measure)
    rows = [*openmp_waiting.waiting_rows(3, 0)]
    assert [row.what for row in rows] == list(openmp_waiting.WORKS)
    assert rows[0].figures == ("200.0", "100.0", "300.0", "900.0", "+100.0%", "1.50")
    assert len(rows[0].figures) == len(openmp_waiting.COLUMNS) - 1


def test_decoding_reads_one_token_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openmp_waiting, "DECODED", 2)
    model, steps = small_rwkv(), []
    honest = model.next_logits
    monkeypatch.setattr(model, "next_logits", lambda *given: (steps.append(1), honest(*given))[1])
    openmp_waiting.decode(model)
    assert len(steps) == 2 and not model.training
