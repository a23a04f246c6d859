"""What follows from rows: time per token, use of the peak, energy, percentiles."""

from __future__ import annotations

from pathlib import Path

import pytest

from probes.analysis import costs, derived_metrics
from probes.analysis.dataset import collect
from tests.probes.synthetic import failed, make_row, make_rows, write_run


def test_seconds_per_token_of_each_probe(tmp_path: Path) -> None:
    rows = make_rows(("rwkv4",), ("train", "prefill", "decode"), fixed=False)
    (series,) = collect([write_run(tmp_path / "run", rows)]).all_series
    assert costs.seconds_per_token(series, "train")[1024] == pytest.approx((2 + 1.024) / 1024)
    assert costs.seconds_per_token(series, "prefill")[512] == pytest.approx(4e-4)
    assert costs.seconds_per_token(series, "decode")[256] == pytest.approx(4e-3)


def test_mfu_only_where_a_peak_was_measured() -> None:
    known = make_row("gpt", "train", 1024, peak_flops=1e10, flops=10**9, flops_dense=2 * 10**9)
    seconds = 1 + 5e-4 * 1024 + 3e-7 * 1024**2
    assert derived_metrics.utilisation([known]) == pytest.approx(1e9 / seconds / 1e10)
    assert derived_metrics.utilisation([known], dense=True) == pytest.approx(2e9 / seconds / 1e10)
    assert derived_metrics.utilisation([make_row("gpt", "train", 1024)]) is None
    uncounted = make_row("gpt", "operator", 1024, flops=None, peak_flops=1e9)
    assert derived_metrics.utilisation([uncounted]) is None
    assert (
        derived_metrics.utilisation([failed("gpt", "train", 1024, "oom", peak_flops=1e9)]) is None
    )


def test_energy_per_token() -> None:
    assert derived_metrics.joules_per_token([make_row("gpt", "train", 1024)]) is None
    row = make_row("gpt", "train", 1024, energy_joules=2048.0, batch=2)
    assert derived_metrics.joules_per_token([row]) == 1.0
    assert (
        derived_metrics.joules_per_token([make_row("gpt", "decode", 1024, energy_joules=3.0)])
        == 3.0
    )


def test_percentiles_are_of_tokens() -> None:
    row = make_row("gpt", "decode", 256, token_seconds=[1e-3] * 90 + [5e-3] * 10)
    assert derived_metrics.token_percentiles([row]) == (1e-3, 5e-3)
    assert derived_metrics.token_percentiles([make_row("gpt", "train", 256)]) is None
