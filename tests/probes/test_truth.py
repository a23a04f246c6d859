"""Sentences must claim no more than the sides that are decided, whatever these are."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from math import sqrt
from pathlib import Path

import pytest

from probes import accounts, compare, rates, story, summary, words
from probes.collect import Arm, Material, arms_of, collect
from probes.compare import Crossing, Finding
from probes.measures import BY_KEY
from probes.ratios import ABOVE, BELOW, EQUAL, UNDECIDED
from probes.report import Report, analyse
from probes.rows import Row
from probes.statistics import Estimate
from tests.probes.synthetic import failed, make_row, make_rows, write_run

LENGTHS = (256, 512, 1024)
RATIO = {BELOW: 0.5, ABOVE: 2.0, EQUAL: 1.001, UNDECIDED: 1.2}
EVERY = list(itertools.product(RATIO, repeat=3))


def arms() -> list[Arm]:
    rows = [make_row(who, "train", length) for who in ("rwkv4", "gpt") for length in LENGTHS]
    return arms_of(rows)


def finding(sides: Sequence[str]) -> Finding:
    """Of training times, with these sides; the crossings' intervals hold no measured length."""
    measure = BY_KEY["train"]
    recurrent, attention = (compare.curve(arm, measure) for arm in arms())
    by_length = dict(zip(LENGTHS, sides, strict=True))
    intervals = {
        length: Estimate(RATIO[side], 0.9 * RATIO[side], 1.1 * RATIO[side])
        for length, side in by_length.items()
    }
    decided = [(length, side) for length, side in by_length.items() if side in (BELOW, ABOVE)]
    crossings = []
    for (before, one), (after, other) in itertools.pairwise(decided):
        if one != other:
            middle = sqrt(before * after) * 1.1
            crossings.append(Crossing(middle, 0.95 * middle, 1.05 * middle))
    kind = compare.kind_of(list(sides))
    return Finding(measure, recurrent, attention, kind, tuple(crossings), intervals, by_length)


def texts(one: Finding) -> tuple[str, str, list[str]]:
    """Headline, verdict and paragraphs."""
    pair = (one.recurrent.arm, one.attention.arm)
    material = Material((), (), pair)
    (_, paragraphs), *_ = story.story(material, [one])
    return story.headline(material, [one]), words.verdict(one), paragraphs


@pytest.mark.parametrize("sides", EVERY, ids=" ".join)
def test_nothing_is_said_of_every_length_that_holds_of_some(sides: tuple[str, ...]) -> None:
    one = finding(sides)
    headline, verdict, (losses, _, *wins) = texts(one)
    alike = len(set(sides)) == 1
    assert ("every" in verdict or "any length" in verdict) == alike
    assert ("every context length" in headline) == (alike and sides[0] == BELOW)
    assert (one.note == "cheaper at every length") == (set(sides) == {BELOW})
    assert ("At every context length measured it needs more" in losses) == (set(sides) == {ABOVE})
    for place, length in enumerate(LENGTHS):
        if sides[place] == UNDECIDED and not alike:
            assert "not decided" in headline and "not decided" in verdict
            if not one.crossings or one.kind != "several":
                assert f"{length:,}" in one.note
        if sides[place] == EQUAL and one.kind == "reverse":
            assert "both need the same" in headline and "both need the same" in verdict
    claimed = "Below about" in losses or "Above about" in losses
    if claimed:
        crossing = one.crossings[0].length
        inside = [
            side
            for length, side in one.sides.items()
            if (length < crossing) == ("Below about" in losses)
        ]
        assert set(inside) == {ABOVE}
    open_somewhere = UNDECIDED in sides
    assert ("lost at no length compared" in losses) == (ABOVE not in sides and not open_somewhere)
    told = " ".join(wins)
    assert ("won at no length compared" in told) == (BELOW not in sides and not open_somewhere)


@pytest.mark.parametrize("sides", EVERY, ids=" ".join)
def test_there_is_none_in_range_only_where_that_is_decided(sides: tuple[str, ...]) -> None:
    one = finding(sides)
    wins = [side for side in sides if side in (BELOW, ABOVE)][-1:] == [BELOW]
    assert (one.crossover is not None) == (wins and bool(one.crossings))
    if one.none_in_range:
        assert sides[-1] != UNDECIDED and (ABOVE in sides[-2:] or UNDECIDED not in sides)
    elif not one.crossover:
        assert UNDECIDED in sides
    assert ("none_in_range" in summary._crossover(one)) == one.none_in_range


def test_a_length_on_the_way_across_that_is_not_decided_is_named() -> None:
    one = finding((ABOVE, UNDECIDED, BELOW))
    headline, _, (losses, *_) = texts(one)
    assert headline.endswith("RWKV-4 trains faster than GPT; not decided at 512 tokens.")
    assert "At 256 tokens it needs more training time" in losses
    wide = replace(one, crossings=(Crossing(560.0, 300.0, 900.0),))
    assert words.exceptions(wide) == "", "the interval says it"
    headline, verdict, _ = texts(finding((ABOVE, BELOW, EQUAL)))
    assert headline.endswith(
        "than GPT; at 1,024 tokens both need the same to within 1 %."
    ) and verdict.endswith("; at 1,024 tokens both need the same to within 1 %.")
    assert texts(finding((UNDECIDED, ABOVE, UNDECIDED)))[0] == (
        "GPT trains faster than RWKV-4 at 512 tokens; not decided below and above 512 tokens."
    )


def test_a_crossing_of_single_values_has_no_interval() -> None:
    one = replace(finding((ABOVE, BELOW, BELOW)), crossings=(Crossing(400.0),))
    assert story.answer_interval([one]) == "one value per point, no interval"


def disturb(rows: list[Row], *lengths: int) -> list[Row]:
    return [
        replace(row, disturbed=[row.context_length in lengths] * len(row.seconds)) for row in rows
    ]


def told(folder: Path, rows: list[Row]) -> tuple[Material, list[Finding], str]:
    material = collect([write_run(folder / "run", rows)])
    found = compare.findings(material)
    return material, found, " ".join(t for _, block in story.story(material, found) for t in block)


def cheap(costs: dict[str, float]) -> list[Row]:
    """Training rows whose time is constant and whose memory is the larger for the RWKV."""
    return [
        make_row(who, "train", length, seconds=[cost], peak_bytes=10**8 * (1 + (who == "rwkv4")))
        for length in LENGTHS
        for who, cost in costs.items()
    ]


def test_what_is_disturbed_is_neither_won_nor_lost(tmp_path: Path) -> None:
    rows = disturb(cheap({"rwkv4": 1.0, "gpt": 2.0}), *LENGTHS)
    material, found, text = told(tmp_path, rows)
    assert story.headline(material, found).startswith("This machine was too busy to say")
    assert "RWKV-4 won at no length where this is decided." in text
    assert "disturbed too many points to compare training time per sequence." in text
    assert "nowhere" not in text


def test_lengths_that_do_not_count_are_not_among_every_length(tmp_path: Path) -> None:
    rows = disturb(cheap({"rwkv4": 1.0, "gpt": 2.0}), 512)
    material, found, text = told(tmp_path / "a", rows)
    assert story.headline(material, found) == (
        "RWKV-4 trains faster than GPT at every context length measured for both undisturbed, 256 "
        "to 1,024 tokens."
    )
    rows = [*cheap({"rwkv4": 2.0, "gpt": 1.0}), failed("gpt", "train", 2048, "oom")]
    rows.append(make_row("rwkv4", "train", 2048, peak_bytes=10**8))
    material, found, text = told(tmp_path / "b", rows)
    assert "RWKV-4 won at no length that both finished." in text
    assert "at every length that both finished, 256 to 1,024" in words.verdict(found[0])


def test_nothing_finished_is_not_nothing_measured(tmp_path: Path) -> None:
    rows = [failed(who, "train", length, "oom") for who in ("rwkv4", "gpt") for length in LENGTHS]
    material, found, _ = told(tmp_path, rows)
    assert story.headline(material, found) == (
        "No probe finished at two context lengths for both kinds of model."
    )


def test_no_table_quotes_disturbed_repeats(tmp_path: Path) -> None:
    rows = make_rows(probes=("decode", "max_batch"), fixed=False)
    rows = [replace(row, peak_flops=1e12) for row in disturb(rows, 512)]
    material = collect([write_run(tmp_path / "run", rows)])
    report = analyse(material, tmp_path, (256, 1024))
    assert "512" not in {line.cells[0] for line in accounts.latencies(report).lines}
    for table, cells in ((accounts.batches(report), 1), (accounts.efficiency(report), 3)):
        assert {line.cells.count("disturbed") for line in table.lines} == {0, cells}
        assert all(("disturbed" in line.cells) == (line.cells[0] == "512") for line in table.lines)
    slow = replace(rows[0], disturbed=[True, False, False, False, False])
    slow.token_seconds[:20] = [99.0] * 20
    assert rates.token_percentiles([slow])[1] < 1  # type: ignore[index]


def test_grammar_of_one() -> None:
    counts = {"finished": 2, "measured_again": 1, "repetitions": 1, "disturbed": 0, "failed": 0}
    assert words.quiet(counts) == (
        "Of 2 measurements, 1 was made again, because other processes disturbed it or what it is "
        "compared with; none is disturbed now."
    )
    report = Report(Material((), (), ()), (finding((ABOVE, ABOVE, ABOVE)),), {}, {}, Path())
    assert "In 1 of 1 comparison the recurrent model" in accounts.losses(report).caption
