"""How threads wait: what a row compares."""

from __future__ import annotations

import pytest
import torch

from benchmarks import openmp_waiting
from benchmarks.harness import Samples
from benchmarks.training_step import small_rwkv


def test_a_row_has_the_cost_of_waiting_and_of_company(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(rounds: int, threads: int) -> dict[openmp_waiting.Case, Samples]:
        idle = {"briefly": 0.11, "asleep": 0.2, "spinning": 0.1}
        beside = {"briefly": 0.22, "asleep": 0.3, "spinning": 0.9}
        return {
            (way, work, busy): Samples((seconds,) * rounds)
            for work in openmp_waiting.WORKS
            for busy, taken in enumerate((idle, beside))
            for way, seconds in taken.items()
        }

    monkeypatch.setattr(openmp_waiting, "measure", measure)
    rows = [*openmp_waiting.waiting_rows(3, 0)]
    assert [row.what for row in rows] == list(openmp_waiting.WORKS)
    milliseconds = ("110.0", "200.0", "100.0", "220.0", "300.0", "900.0")
    assert rows[0].figures == (*milliseconds, "1.10", "2.00", "2.00", "1.50", "9.00")
    assert len(rows[0].figures) == len(openmp_waiting.COLUMNS) - 1


def test_the_start_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(openmp_waiting, "timer", lambda: next(clock) / 10)
    times = iter([9.0, 9.0, 1.0, 1.0, 1.0, *[2.0] * 90])
    # Two readings of the clock to a piece: those that begin within half a second are left out.
    assert openmp_waiting.steady(lambda: next(times)) == pytest.approx(1.7, abs=0.2)


def test_decoding_reads_one_token_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openmp_waiting, "DECODED", 2)
    model, read = small_rwkv(), []

    class Watched(openmp_waiting.Decoder):
        def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
            read.append(tuple(tokens.shape))
            return super().__call__(tokens)

    monkeypatch.setattr(openmp_waiting, "Decoder", Watched)
    openmp_waiting.decode(model)
    assert read == [(1, 1)] * 2 and not model.training
