"""Sentences must claim no more than the sides that are decided, whatever these are."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Sequence
from dataclasses import replace
from math import sqrt
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from core import units
from core.interval import Interval
from probes.analysis import crossovers, derived_metrics
from probes.analysis.analysis import analyse
from probes.analysis.crossovers import Comparison
from probes.analysis.dataset import Dataset, Series, collect, series_of
from probes.analysis.metrics import BY_KEY
from probes.analysis.ratios import ABOVE, BELOW, EQUAL, UNDECIDED
from probes.report import (
    answer,
    cost_tables,
    narrative,
    phrases,
    summary_json,
    terminal,
    winning_ranges,
)
from probes.rows import Row
from tests.probes.synthetic import failed, make_row, make_rows, make_summary, write_run
from tests.registered_models import is_recurrent

LENGTHS = (256, 512, 1024)
RATIO = {BELOW: 0.5, ABOVE: 2.0, EQUAL: 1.001, UNDECIDED: 1.2}
EVERY = list(itertools.product(RATIO, repeat=3))


def all_series() -> list[Series]:
    rows = [make_row(who, "train", length) for who in ("rwkv4", "gpt") for length in LENGTHS]
    return series_of(rows)


def comparison(sides: Sequence[str]) -> Comparison:
    """Of training times, with these sides; the crossings' intervals hold no measured length."""
    measure = BY_KEY["train"]
    recurrent, attention = (crossovers.curve(series, measure) for series in all_series())
    by_length = dict(zip(LENGTHS, sides, strict=True))
    intervals = {
        length: Interval(RATIO[side], 0.9 * RATIO[side], 1.1 * RATIO[side])
        for length, side in by_length.items()
    }
    decided = [(length, side) for length, side in by_length.items() if side in (BELOW, ABOVE)]
    crossings = []
    for (before, one), (after, other) in itertools.pairwise(decided):
        if one != other:
            middle = sqrt(before * after) * 1.1
            crossings.append(Interval(middle, 0.95 * middle, 1.05 * middle))
    kind = crossovers.kind_of(list(sides))
    return Comparison(measure, recurrent, attention, kind, tuple(crossings), intervals, by_length)


def texts(one: Comparison) -> tuple[str, str, list[str]]:
    """Headline, verdict and paragraphs."""
    pair = (one.recurrent.series, one.attention.series)
    dataset = Dataset((), (), pair)
    (_, paragraphs), *_ = narrative.story(dataset, [one])
    return answer.headline(dataset, [one]), phrases.verdict(one), paragraphs


@pytest.mark.parametrize("sides", EVERY, ids=" ".join)
def test_nothing_is_said_of_every_length_that_holds_of_some(sides: tuple[str, ...]) -> None:
    one = comparison(sides)
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
        crossing = one.crossings[0].number
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
    one = comparison(sides)
    wins = [side for side in sides if side in (BELOW, ABOVE)][-1:] == [BELOW]
    assert (one.crossover is not None) == (wins and bool(one.crossings))
    if one.none_in_range:
        assert sides[-1] != UNDECIDED and (ABOVE in sides[-2:] or UNDECIDED not in sides)
    elif not one.crossover:
        assert UNDECIDED in sides
    assert ("none_in_range" in summary_json._crossover(one)) == one.none_in_range


def test_a_length_on_the_way_across_that_is_not_decided_is_named() -> None:
    one = comparison((ABOVE, UNDECIDED, BELOW))
    headline, _, (losses, *_) = texts(one)
    assert headline.endswith("RWKV-4 trains faster than GPT; not decided at 512 tokens.")
    assert "At 256 tokens it needs more training time" in losses
    wide = replace(one, crossings=(Interval(560.0, 300.0, 900.0),))
    assert phrases.exceptions(wide) == "", "the interval says it"
    headline, verdict, _ = texts(comparison((ABOVE, BELOW, EQUAL)))
    assert headline.endswith(
        "than GPT; at 1,024 tokens both need the same to within 1 %."
    ) and verdict.endswith("; at 1,024 tokens both need the same to within 1 %.")
    assert texts(comparison((UNDECIDED, ABOVE, UNDECIDED)))[0] == (
        "GPT trains faster than RWKV-4 at 512 tokens; not decided below and above 512 tokens."
    )


def test_a_crossing_of_single_values_has_no_interval() -> None:
    one = replace(comparison((ABOVE, BELOW, BELOW)), crossings=(Interval(400.0),))
    assert answer.interval([one]) == "one value per point, no interval"


def disturb(rows: list[Row], *lengths: int) -> list[Row]:
    return [
        replace(row, disturbed=[row.context_length in lengths] * len(row.seconds)) for row in rows
    ]


def told(folder: Path, rows: list[Row]) -> tuple[Dataset, list[Comparison], str]:
    dataset = collect([write_run(folder / "run", rows)])
    found = crossovers.comparisons(dataset)
    return (
        dataset,
        found,
        " ".join(t for _, block in narrative.story(dataset, found) for t in block),
    )


def cheap(costs: dict[str, float]) -> list[Row]:
    """Training rows whose time is constant and whose memory is the larger for what recurs."""
    return [
        make_row(who, "train", length, seconds=[cost], peak_bytes=10**8 * (1 + is_recurrent(who)))
        for length in LENGTHS
        for who, cost in costs.items()
    ]


def test_what_is_disturbed_is_neither_won_nor_lost(tmp_path: Path) -> None:
    rows = disturb(cheap({"rwkv4": 1.0, "gpt": 2.0}), *LENGTHS)
    dataset, found, text = told(tmp_path, rows)
    assert answer.headline(dataset, found).startswith("This machine was too busy to say")
    assert "RWKV-4 won at no length where this is decided." in text
    assert "disturbed too many points to compare training time per sequence." in text
    assert "nowhere" not in text


def test_lengths_that_do_not_count_are_not_among_every_length(tmp_path: Path) -> None:
    rows = disturb(cheap({"rwkv4": 1.0, "gpt": 2.0}), 512)
    dataset, found, text = told(tmp_path / "a", rows)
    assert answer.headline(dataset, found) == (
        "RWKV-4 trains faster than GPT at every context length measured for both undisturbed, 256 "
        "to 1,024 tokens."
    )
    rows = [*cheap({"rwkv4": 2.0, "gpt": 1.0}), failed("gpt", "train", 2048, "oom")]
    rows.append(make_row("rwkv4", "train", 2048, peak_bytes=10**8))
    dataset, found, text = told(tmp_path / "b", rows)
    assert "RWKV-4 won at no length that both finished." in text
    assert "at every length that both finished, 256 to 1,024" in phrases.verdict(found[0])


def test_nothing_finished_is_not_nothing_measured(tmp_path: Path) -> None:
    rows = [failed(who, "train", length, "oom") for who in ("rwkv4", "gpt") for length in LENGTHS]
    dataset, found, _ = told(tmp_path, rows)
    assert answer.headline(dataset, found) == (
        "No probe finished at two context lengths for both kinds of model."
    )


def test_no_table_quotes_disturbed_repeats(tmp_path: Path) -> None:
    rows = make_rows(probes=("decode", "max_batch"), fixed=False)
    rows = [replace(row, peak_flops=1e12) for row in disturb(rows, 512)]
    dataset = collect([write_run(tmp_path / "run", rows)])
    analysis = analyse(dataset, (256, 1024))
    assert "512" not in {line.cells[0] for line in cost_tables.latencies(analysis).lines}
    for table, cells in ((cost_tables.batches(analysis), 1), (cost_tables.efficiency(analysis), 3)):
        assert {line.cells.count("disturbed") for line in table.lines} == {0, cells}
        assert all(("disturbed" in line.cells) == (line.cells[0] == "512") for line in table.lines)
    slow = replace(rows[0], disturbed=[True, False, False, False, False])
    slow.token_seconds[:20] = [99.0] * 20
    assert derived_metrics.token_percentiles([slow])[1] < 1


def arm_of(name: str, recurrent: bool) -> Series:
    return Series(name, name, (), recurrent, name)


def paired(kinds: dict[str, Sequence[str]]) -> tuple[str, Dataset]:
    """The headline of one attention model and a recurrent one for each of these comparisons."""
    other = arm_of("gpt", False)
    found = []
    for name, sides in kinds.items():
        one = comparison(sides)
        mine = replace(one.recurrent, series=arm_of(name, True))
        found.append(replace(one, recurrent=mine, attention=replace(one.attention, series=other)))
    dataset = Dataset((), (), (*(one.recurrent.series for one in found), other))
    return answer.headline(dataset, found), dataset


def test_of_several_pairs_each_is_counted_for_what_it_is() -> None:
    headline, dataset = paired(
        {
            "crossing": (ABOVE, BELOW, BELOW),
            "winner": (BELOW, BELOW, BELOW),
            "up to": (BELOW, BELOW, ABOVE),
            "open": (UNDECIDED, UNDECIDED, BELOW),
            "same": (EQUAL, EQUAL, EQUAL),
            "loser": (ABOVE, EQUAL, ABOVE),
            "loser too": (ABOVE, ABOVE, ABOVE),
        }
    )
    assert headline == (
        "In training time per sequence, the recurrent model overtakes attention in 1 of 7 pairs of "
        "a recurrent and an attention model, first at about 398 tokens of context (crossing against"
        " gpt); in 1 it is cheaper wherever the two differ; in 1 it is cheaper only up to some "
        "length; in 1 it needs the same at every length compared; in 1 it has no crossover that is "
        "decided; in 2 it is cheaper at no length compared."
    )
    headline, _ = paired({"a": (BELOW, BELOW, BELOW), "b": (BELOW, EQUAL, BELOW)})
    assert headline == (
        "In training time per sequence, in 2 of 2 pairs of a recurrent and an attention model the "
        "recurrent one is cheaper wherever the two differ."
    )
    found = replace(comparison((ABOVE, BELOW, BELOW)), kind="missing")
    assert answer.headline(dataset, [found]).startswith("No probe was measured")
    alone = Dataset((), (), (arm_of("gpt", False), arm_of("bert", False)))
    assert answer.headline(alone, []).startswith("Only gpt and bert were measured: a crossover")


def test_one_disturbed_point_of_many_is_not_why(tmp_path: Path) -> None:
    """Where more is left than was lost, the answer is that it is not decided."""
    rows = [
        make_row(who, "train", length, process=n, seconds=[1.0 + 0.2 * ((n + shift) % 3)] * 3)
        for length in (256, 512, 1024, 2048)
        for n in range(3)
        for shift, who in enumerate(("rwkv4", "gpt"))
    ]
    dataset, found, _ = told(tmp_path / "a", disturb(rows, 512))
    assert found[0].kind == "undecided" and answer.headline(dataset, found).startswith("Whether")
    dataset, found, _ = told(tmp_path / "b", disturb(rows, 512, 1024))
    assert answer.headline(dataset, found) == (
        "This machine was too busy to say; run the same command again: it repeats the 12 disturbed "
        "measurements."
    )
    kept = [
        replace(row, command="scripts/probe.py remeasure=0") for row in disturb(rows, 512, 1024)
    ]
    dataset, found, _ = told(tmp_path / "c", kept)
    assert "again without remeasure=0: it repeats" in answer.headline(dataset, found)


def test_what_is_longer_and_not_known_of_both_is_named(tmp_path: Path) -> None:
    rows = make_rows(probes=("train",), fixed=False)
    lost = [failed("gpt", "train", 16384, "oom"), make_row("rwkv4", "train", 16384)]
    dataset, found, text = told(tmp_path / "a", [*rows, *lost])
    said = "RWKV-4 trains faster than GPT; not compared above 8,192 tokens."
    assert answer.headline(dataset, found).endswith(said)
    assert "Below about" in text
    dataset, found, text = told(tmp_path / "b", disturb(rows, 256))
    assert "Below about" not in text and "At 512 to 2,048 tokens it needs more" in text


def test_a_ratio_that_two_values_do_not_give_is_told_apart(tmp_path: Path) -> None:
    assert units.factor(2.04, (2.05, 1.0)) == "2.0 times as much"
    assert units.factor(2.04, (2.3, 1.0)) == "2.0 times as much measured side by side"
    assert units.times(1.0004) == "1.0004 times as much"
    assert units.times(1638.4) == "1,600 times as much"


@pytest.mark.parametrize(
    ("losses", "changes", "said"),
    [
        ((3.3041, 3.3044), {}, "After training on the same tokens both predict new text equally"),
        ((3.4, 3.3), {}, "After training on the same tokens RWKV-4 predicts new text less well"),
        ((3.4, 3.3), {"tokens": 9}, "After unlike trainings RWKV-4 predicts new text less well"),
        ((3.2, 3.3), {"order_hash": None}, "After unlike trainings RWKV-4 predicts new text bet"),
    ],
)
def test_trainings_are_called_alike_if_they_are(
    tmp_path: Path, losses: tuple[float, float], changes: dict[str, Any], said: str
) -> None:
    runs = [make_summary("rwkv4", losses[0], **changes), make_summary("gpt", losses[1])]
    run = write_run(tmp_path / "run", make_rows(probes=("train",), fixed=False), *runs)
    dataset = collect([run], allow_mixed=True)
    found = crossovers.comparisons(dataset)
    assert said in narrative.story(dataset, found)[0][1][0]


def test_a_mean_over_trainings_is_called_one(tmp_path: Path) -> None:
    runs = [make_summary("rwkv4", loss, name=f"r{loss}") for loss in (3.3, 3.5)]
    rows = make_rows(probes=("train",), fixed=False)
    dataset = collect([write_run(tmp_path / "run", rows, *runs, make_summary("gpt", 3.2))])
    text = narrative.story(dataset, crossovers.comparisons(dataset))[0][1][0]
    assert "a mean validation loss of 3.400 against 3.200" in text
    assert "over 2 and 1 trainings" in text


def test_nothing_is_clearest_of_equals() -> None:
    assert "(for example at 256 tokens " in texts(comparison((BELOW, BELOW, BELOW)))[2][2]
    assert "sequence (at 1,024 tokens " in texts(comparison((ABOVE, ABOVE, BELOW)))[2][2]
    one = comparison((BELOW, BELOW, BELOW))
    one.intervals[512] = Interval(0.4, 0.35, 0.45)
    assert "(most clearly at 512 tokens " in texts(one)[2][2]


def test_one_length_alone_is_neither_won_nor_lost(tmp_path: Path) -> None:
    rows = make_rows(probes=("decode",), fixed=False)
    rows += [make_row(who, "train", 256) for who in ("rwkv4", "gpt")]
    _, _, text = told(tmp_path, rows)
    assert "One length alone is too little to compare training time per sequence and peak" in text


def test_an_open_end_beside_a_crossing_is_hatched_too() -> None:
    one = comparison((ABOVE, BELOW, UNDECIDED))
    assert phrases.undecided_runs(one) == [(1024, 1024)]
    inside = replace(one, crossings=(Interval(400.0, 300.0, 2000.0),))
    assert phrases.undecided_runs(inside) == []
    sides = [(part.start, part.end, part.side) for part in winning_ranges.stretches(one)]
    assert sides[-1] == (512, 1024, UNDECIDED)


def test_heading_and_paragraph_stand_together() -> None:
    rows = make_rows(("gpt", "transformer"), ("decode",), fixed=False)
    dataset = Dataset(tuple(rows), (), tuple(series_of(rows)))
    blocks = narrative.story(dataset, [])
    assert all(texts for _, texts in blocks) and [head for head, _ in blocks] == [""]


def test_the_answer_has_its_interval_beside_its_place(tmp_path: Path) -> None:
    rows = [*make_rows(probes=("train",), fixed=False), failed("gpt", "train", 16384, "oom")]
    dataset, _, _ = told(tmp_path, rows)
    console = Console(width=500, file=io.StringIO())
    terminal.print_summary(analyse(dataset, (256, 4096)), console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    flat = " ".join(text.split())
    assert re.search(
        r"than GPT \(95 % interval [\d,]+ to [\d,]+ tokens\); not compared above", flat
    )
    assert "side by side" not in flat
    assert "pages" not in flat


def test_a_ratio_that_is_not_of_the_values_is_told_in_the_terminal(tmp_path: Path) -> None:
    """One process of three was held up in the first model alone."""
    costs = {"rwkv4": (1.0, 1.0, 1.0), "gpt": (2.0, 2.4, 2.8)}
    rows = [
        make_row(
            who, "train", length, process=n, seconds=[cost[n]] * 3,
            disturbed=[(who, n) == ("rwkv4", 0)] * 3,
        )
        for length in LENGTHS
        for who, cost in costs.items()
        for n in range(3)
    ]  # fmt: skip
    dataset, _, _ = told(tmp_path, rows)
    console = Console(width=80, file=io.StringIO())
    terminal.print_summary(analyse(dataset, (256, 4096)), console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"ratio: {terminal.RATIO}\n" in text
    assert "0.40" in text and "2.20 s" in text


def test_the_line_about_the_machine_counts_what_it_names() -> None:
    counts = {"finished": 9, "measured_again": 2, "repetitions": 5, "disturbed": 1, "failed": 3}
    assert phrases.quiet(counts) == (
        "Of 9 finished measurements, 2 were made again, 5 times in all, because other processes "
        "disturbed them or what they are compared with; 1 is still disturbed."
    )


def test_grammar_of_one() -> None:
    counts = {"finished": 2, "measured_again": 1, "repetitions": 1, "disturbed": 0, "failed": 0}
    assert phrases.quiet(counts) == (
        "Of 2 measurements, 1 was made again, because other processes disturbed it or what it is "
        "compared with; none is disturbed now."
    )
    analysis = analyse(Dataset((), (), ()), (256, 1024))
    analysis = replace(analysis, comparisons=(comparison((ABOVE, ABOVE, ABOVE)),))
    assert "In 1 of 1 comparison the recurrent model" in cost_tables.losses(analysis).caption
