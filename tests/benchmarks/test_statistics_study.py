"""The study of the statistics: a few sweeps for each row."""

from __future__ import annotations

from benchmarks import statistics_study
from benchmarks.statistics_study import NOISES, Noise, estimation_row, linear_rows, verdict_row


def test_estimators_err_more_where_repeats_are_delayed() -> None:
    quiet, delayed = (estimation_row(noise, 20).figures for noise in (NOISES[0], NOISES[4]))
    assert len(quiet) == len(delayed) == len(statistics_study.ESTIMATORS)
    mean = [*statistics_study.ESTIMATORS].index("mean")
    assert float(quiet[mean]) < 5 < float(delayed[mean])


def test_shares_of_verdicts_make_a_whole() -> None:
    row = verdict_row("25 % apart", Noise("quiet"), 4)
    truth, *shares = row.figures
    assert (row.what, truth) == ("quiet", "25 % apart")
    assert sum(float(share.split()[0]) for share in shares) == 100


def test_only_straight_lines_are_called_linear() -> None:
    rows = {row.what: float(row.figures[1].split()[0]) for row in linear_rows(3)}
    assert rows["a + bT"] > rows["a + bT + cT²"] == 0
