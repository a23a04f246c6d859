"""Two sweeps and whether their intervals overlap."""

from __future__ import annotations

import re
from math import inf
from pathlib import Path

import pytest

from benchmarks.repeatability import describe, overlap, span
from probes.analysis import crossovers
from probes.analysis.crossovers import MEASURES, Comparison
from probes.analysis.dataset import Series
from tests.probes.synthetic import LENGTHS, make_row
from tests.scripts.commands import QUICK, run_script


def comparison(power: float, at: float) -> Comparison:
    """RWKV at `(at / T)^power` of a second against a second, with two per cent of noise."""
    curves = [
        crossovers.curve(
            Series(who, who, tuple(
                make_row(who, "train", t, process=p, seconds=[cost(t) * (0.98 + 0.01 * luck)] * 2)
                for t in LENGTHS for p, luck in enumerate(order)
            )),
            MEASURES[0],
        )
        for who, cost, order in (
            ("rwkv4", lambda t: (at / t) ** power, (0, 1, 2, 3, 4)),
            ("gpt", lambda t: 1.0, (2, 0, 4, 1, 3)),
        )
    ]  # fmt: skip
    return crossovers.find(curves[0], curves[1], MEASURES[0])


def test_spans_and_their_words() -> None:
    inside = comparison(1.0, 1000)
    low, high = span(inside)
    assert 900 < low < 1000 < high < 1100
    assert describe(inside) == f"1,000 ({low:.3g} to {float(f'{high:.3g}'):,.0f})"
    assert span(comparison(1.0, 10)) == (-inf, 256)
    assert span(comparison(1.0, 99_000)) == (8192, inf)
    assert describe(comparison(1.0, 99_000)) == "none (above 8,192)"
    assert describe(comparison(1.0, 10)) == "none (below 256)"
    near = span(comparison(0.5, 8000))
    assert near == (4096, inf)
    assert span(comparison(0.5, 8300)) == (4096, inf)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((1, 3), (2, 4), True),
        ((1, 2), (3, 4), False),
        ((1, inf), (3, 4), True),
        ((-inf, 256), (8192, inf), False),
        ((8000, inf), (8192, inf), True),
        ((1, 2), (2, 3), True),
    ],
)
def test_overlap(first: tuple[float, float], second: tuple[float, float], expected: bool) -> None:
    assert overlap(first, second) is expected
    assert overlap(second, first) is expected


@pytest.mark.slow
def test_two_sweeps_are_run_and_compared(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = [
        "-m", "model=rwkv4,transformer", "model.size=tiny", "vocab_size=512", "lengths=[8,16]",
        "probes=[prefill]", "processes=2", "repeats=1", "pairs=1", *QUICK,
        f"runs_dir={tmp_path}",
    ]  # fmt: skip
    done = run_script(capfd, "repeatability", *words)
    assert done.status == 0, done.err
    assert re.search(r"prefill rwkv4/transformer: the intervals overlap in [01] of 1", done.out)
    for run in ("00-a", "00-b"):
        lines = (tmp_path / "repeatability" / run / "probes.jsonl").read_text().splitlines()
        assert len(lines) == 2 * 2 * 2


def test_one_model_has_no_crossover(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["model.size=tiny", "vocab_size=64", "lengths=[8]", "probes=[prefill]", "processes=1",
             "repeats=1", "pairs=1", f"runs_dir={tmp_path}"]  # fmt: skip
    done = run_script(capfd, "repeatability", *words)
    assert done.status == 2 and "no crossover has an interval" in done.err
