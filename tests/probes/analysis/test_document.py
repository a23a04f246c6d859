"""What a person feels is measured, predicted from what was measured, or not known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from probes.analysis import document as documents
from probes.analysis.crossovers import curve
from probes.analysis.dataset import series_of
from probes.analysis.document import (
    CALCULATED,
    FAILED,
    KEEPING,
    MEASURED,
    PREDICTED,
    READING,
    UNKNOWN,
    WRITING,
    Document,
    Felt,
)
from probes.analysis.metrics import BY_KEY
from probes.rows import Row
from tests.probes.synthetic import COSTS, LENGTHS, failed, make_row, make_rows

FAR = 35_000


def document(rows: Sequence[Row]) -> Document | None:
    every = series_of(list(rows))
    keys = ("ttft", "prefill", "decode", "state")
    return documents.document(
        every, {key: [curve(one, BY_KEY[key]) for one in every] for key in keys}
    )


def felt(rows: Sequence[Row], what: str) -> list[Felt]:
    found = document(rows)
    assert found is not None and found.length == FAR
    return found.of(what)


def test_a_curve_of_the_right_shape_leads_to_the_truth() -> None:
    rows = make_rows(probes=("prefill", "decode"), fixed=False)
    for probe, what in (("prefill", READING), ("decode", WRITING)):
        for one, kind in zip(felt(rows, what), ("recurrent", "attention"), strict=True):
            truth = COSTS[kind, probe](FAR)
            assert (one.how, one.longest) == (PREDICTED, LENGTHS[-1])
            assert one.value.number == pytest.approx(truth, rel=0.03)
            low, high = one.value.ends or (0.0, 0.0)
            assert low <= one.value.number <= high / documents.DEARER
    mine, other = felt(rows, KEEPING)
    assert (mine.how, mine.value.number) == (CALCULATED, 184_320)
    assert (other.how, other.value.number) == (CALCULATED, 36_864 * FAR)


def test_what_was_measured_there_is_not_predicted() -> None:
    rows = make_rows(probes=("prefill", "decode"), fixed=False)
    rows += [make_row("rwkv4", "prefill", FAR), failed("gpt", "prefill", FAR, "oom")]
    mine, other = felt(rows, READING)
    assert (mine.how, mine.value.number) == (MEASURED, COSTS["recurrent", "prefill"](FAR))
    assert (other.how, other.status, other.value.value) == (FAILED, "oom", None)
    near = [replace(row, context_length=32_768) for row in rows if row.context_length == FAR]
    found = document([*make_rows(probes=("prefill",), fixed=False), *near])
    assert found is not None and found.length == 32_768
    assert found.of(READING)[0].how == MEASURED


@pytest.mark.parametrize("case", ["short", "noisy", "window", "few", "unknown memory"])
def test_nothing_is_predicted_of_what_cannot_be(case: str) -> None:
    rows = make_rows(("gpt",), ("prefill", "decode"), fixed=False)
    if case == "short":
        rows = [row for row in rows if row.context_length <= 1024]
    if case == "few":
        rows = [row for row in rows if row.context_length >= 4096]
    if case == "noisy":
        luck = (3.0, 0.3, 3.0)
        rows = [
            replace(row, process=n, seconds=[luck[(n + row.context_length // 256) % 3] * cost
                                             for cost in row.seconds])
            for row in rows for n in range(3)
        ]  # fmt: skip
    if case == "window":
        rows = [replace(row, config=row.config | {"window": 256}) for row in rows]
    if case == "unknown memory":
        rows = [row for row in rows if row.probe == "prefill"]
    (one,) = felt(rows, READING)
    assert (one.how, one.value.value) == (UNKNOWN, None)
    assert one.longest is not None and one.reached is not None
    if case == "window":
        assert [one.how for one in felt(rows, KEEPING)] == [UNKNOWN]


def test_the_first_token_is_what_is_waited_for_where_it_was_probed() -> None:
    rows = make_rows(probes=("prefill", "ttft", "decode"), fixed=False)
    assert {one.measure for one in felt(rows, READING)} == {"ttft"}


def test_without_such_probes_there_are_no_numbers() -> None:
    assert document(make_rows(probes=("train",), fixed=False)) is None
    disturbed = [
        replace(row, disturbed=[True] * len(row.seconds))
        for row in make_rows(probes=("prefill",), fixed=False)
    ]
    assert document(disturbed) is None
