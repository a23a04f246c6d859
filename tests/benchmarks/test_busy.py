"""Sweeps beside a busy process, and when their verdicts count as false."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.busy import contradiction
from tests.benchmarks.test_repeatability import comparison
from tests.scripts.commands import run_script


def test_a_verdict_is_false_only_against_what_quiet_sweeps_decide() -> None:
    crossing, always, never = comparison(1.0, 1000), comparison(1.0, 10), comparison(1.0, 99_000)
    assert contradiction(crossing, [crossing, crossing]) is None
    assert contradiction(always, [never]) == "below at 256 tokens, above when quiet"
    assert contradiction(never, [crossing]) == "above at 2,048 tokens, below when quiet"
    # One of two is no majority, and without a quiet sweep nothing is false.
    assert contradiction(always, [never, always]) is None
    assert contradiction(always, []) is None


def test_a_crossover_elsewhere_is_false() -> None:
    near, far = comparison(1.0, 1450), comparison(1.0, 1600)
    assert near.sides == far.sides
    why = "the interval of the crossover meets none of the quiet ones"
    assert contradiction(near, [far]) in (None, why)
    assert (contradiction(near, [far]) is None) == (
        near.crossover is not None
        and far.crossover is not None
        and (near.crossover.high or 0) >= (far.crossover.low or 0)
    )


def test_a_sweep_beside_a_busy_process_says_nothing_false(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = [
        "-m", "model=rwkv4,transformer", "model.size=tiny", "vocab_size=512", "lengths=[16,256]",
        "probes=[prefill]", "processes=2", "repeats=3", "repeat_seconds=0.3", "times=1",
        "beside=[0,1]", f"runs_dir={tmp_path}",
    ]  # fmt: skip
    done = run_script(capfd, "busy", *words)
    assert done.status == 0, done.out + done.err
    assert re.search(r"^0 of 4 verdicts are false", done.out, re.M)
    assert re.search(r"^\| 1 \| prefill rwkv4/transformer \| \w+ \|", done.out, re.M)
    for run in ("beside-0-00", "beside-1-00"):
        assert (tmp_path / "busy" / run / "probes.jsonl").is_file()
