"""The sentences must be true in every case."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from probes.analysis import crossovers
from probes.analysis.crossovers import Comparison
from probes.analysis.dataset import Dataset, collect
from probes.report import answer, narrative, phrases
from probes.rows import Row
from tests.probes.synthetic import LENGTHS, failed, make_row, make_rows, make_summary, write_run


def told(folder: Path, rows: list[Row], *summaries: Any) -> tuple[Dataset, list[Comparison]]:
    dataset = collect([write_run(folder / "run", rows, *summaries)])
    return dataset, crossovers.comparisons(dataset)


def paragraphs(dataset: Dataset, found: list[Comparison]) -> list[str]:
    return [text for _, block in narrative.story(dataset, found) for text in block]


def trained(cost: Callable[[int], float]) -> list[Row]:
    """Training rows: RWKV at `cost`, attention at a second, memory the same."""
    rows = []
    for length in LENGTHS:
        for who, seconds in (("rwkv4", cost(length)), ("gpt", 1.0)):
            for process, luck in enumerate((1, 1.001)):
                row = {"seconds": [seconds, seconds * luck], "peak_bytes": 10**8}
                rows.append(make_row(who, "train", length, process=process, **row))
    return rows


@pytest.mark.parametrize(
    ("cost", "headline", "verdict", "loss"),
    [
        (
            lambda t: 1000 / t,
            "From about 1,000 tokens of context, RWKV-4 trains faster than GPT.",
            "RWKV-4 needs less training time per sequence than GPT.",
            "Below about 1,000 tokens of context it needs more training time per sequence: at 256 "
            "tokens 3.91 s against 1.00 s for GPT, 3.9 times as much.",
        ),
        (
            lambda t: 0.5,
            "RWKV-4 trains faster than GPT at every context length measured, 256 to 8,192 tokens.",
            "RWKV-4 needs less training time per sequence than GPT at every length measured, 256 "
            "to 8,192 tokens.",
            "RWKV-4 lost at no length compared here; other lengths may differ.",
        ),
        (
            lambda t: 2.0,
            "At no context length measured, 256 to 8,192 tokens, RWKV-4 trains faster than GPT.",
            "RWKV-4 needs more training time per sequence than GPT at every length measured, 256 "
            "to 8,192 tokens.",
            "At every context length measured it needs more training time per sequence: at ",
        ),
        (
            lambda t: t / 1000,
            "Only up to about 1,000 tokens of context, RWKV-4 trains faster than GPT.",
            "beyond, it needs more.",
            "Above about 1,000 tokens of context it needs more training time per sequence: at "
            "8,192 tokens 8.19 s against 1.00 s for GPT, 8.2 times as much.",
        ),
        (
            lambda t: 2.0 if t in (256, 2048) else 0.5,
            "The curves of training time per sequence of RWKV-4 and GPT cross 3 times from 256 "
            "to 8,192 tokens (near 326, 1,450 and 2,900): there is no single crossover.",
            "there is no single crossover.",
            "At 256 and 2,048 tokens it needs more training time per sequence",
        ),
        (
            lambda t: 1.0,
            "RWKV-4 and GPT need the same training time per sequence at every length measured, 256 "
            "to 8,192 tokens.",
            "need the same training time",
            "RWKV-4 lost at no length compared here",
        ),
    ],
)
def test_every_kind_of_answer(
    tmp_path: Path, cost: Callable[[int], float], headline: str, verdict: str, loss: str
) -> None:
    dataset, found = told(tmp_path, trained(cost))
    assert answer.headline(dataset, found) == headline
    assert verdict in phrases.verdict(found[0])
    first = paragraphs(dataset, found)[0]
    assert loss in first
    assert first.startswith("First, where RWKV-4 loses") == ("lost at no" not in loss)


def test_the_worse_model_is_called_worse_first(tmp_path: Path) -> None:
    runs = (make_summary("rwkv4", 3.312), make_summary("gpt", 3.204))
    first, *rest = paragraphs(*told(tmp_path, make_rows(), *runs))
    assert (
        "RWKV-4 predicts new text less well than GPT: a validation loss of 3.312 against" in first
    )
    assert "attention" in rest[0]
    assert rest[1].startswith(
        "RWKV-4 wins in training time per sequence (most clearly at 8,192 tokens 10.2 s, where GPT "
        "needs 25.2 s, 2.5 times as much)"
    )


def test_worse_quality_alone_is_still_a_loss(tmp_path: Path) -> None:
    runs = (make_summary("rwkv4", 3.3), make_summary("gpt", 3.2))
    first = paragraphs(*told(tmp_path, trained(lambda t: 0.5), *runs))[0]
    assert first.startswith("First, where RWKV-4 loses")
    assert "less well" in first


def test_better_and_equal_quality(tmp_path: Path) -> None:
    better = (make_summary("rwkv4", 3.1), make_summary("gpt", 3.2))
    assert (
        "RWKV-4 predicts new text better"
        in paragraphs(*told(tmp_path / "a", make_rows(), *better))[0]
    )
    equal = (make_summary("rwkv4", 3.2), make_summary("gpt", 3.2))
    assert "equally well" in paragraphs(*told(tmp_path / "b", make_rows(), *equal))[0]
    task = {"val_bits_per_byte": None, "val_accuracy": 0.5, "val_exact_match": 0.1}
    answers = (make_summary("rwkv4", 3.1, **task), make_summary("gpt", 3.2, **task))
    said = paragraphs(*told(tmp_path / "c", make_rows(), *answers))[0]
    assert "RWKV-4 predicts new sequences better" in said and "new text" not in said


def test_truncated_gradients_are_told(tmp_path: Path) -> None:
    cut = make_summary("rwkv4", 3.3, bptt="truncated", segment=8192)
    first = paragraphs(*told(tmp_path, make_rows(), cut, make_summary("gpt", 3.2, bptt="exact")))[0]
    assert "RWKV-4 was trained with gradients cut every 8,192 tokens (truncated" in first
    assert "GPT was trained" not in first


def test_growth_is_told_where_there_are_points_enough(tmp_path: Path) -> None:
    assert not any("fitted best" in text for text in paragraphs(*told(tmp_path / "a", make_rows())))
    rows = [
        make_row(row.model, row.probe, row.context_length, process=p)
        for row in make_rows(fixed=False) for p in range(2)
    ]  # fmt: skip
    text = " ".join(paragraphs(*told(tmp_path / "b", rows)))
    assert "training time per sequence is fitted best by a + bT (" in text
    assert (
        " for RWKV-4 and a + bT + cT² (100 %) for GPT; in brackets its weight by AICc among" in text
    )


def test_unknown_quality_is_said_to_be_unknown(tmp_path: Path) -> None:
    first = paragraphs(*told(tmp_path / "a", make_rows()))[0]
    assert "no finished training of RWKV-4 or GPT with a validation loss was given" in first
    first = paragraphs(*told(tmp_path / "b", make_rows(), make_summary("gpt", 3.2)))[0]
    assert "no finished training of RWKV-4 with a validation loss was given" in first


def test_missing_probes_are_not_talked_about(tmp_path: Path) -> None:
    dataset, found = told(tmp_path, make_rows(probes=("decode",), fixed=False))
    assert answer.headline(dataset, found).endswith("RWKV-4 generates text faster than GPT.")
    by_key = {one.measure.key: one for one in found}
    assert set(by_key) == {
        "train", "prefill", "decode", "decode_p95", "memory", "memory_decode", "state",
    }  # fmt: skip
    assert phrases.verdict(by_key["train"]) == (
        "No comparison of training time per sequence of RWKV-4 and GPT: not probed."
    )
    assert not any("training time" in text for text in paragraphs(dataset, found))


def test_one_kind_of_model_alone(tmp_path: Path) -> None:
    dataset, found = told(tmp_path, make_rows(("gpt",)))
    assert answer.headline(dataset, found) == (
        "Only GPT was measured: a crossover needs a recurrent and an attention model."
    )
    assert found == []


def test_a_single_length_gives_no_answer(tmp_path: Path) -> None:
    rows = [make_row(who, "train", 256) for who in ("rwkv4", "gpt")]
    dataset, found = told(tmp_path, rows)
    assert answer.headline(dataset, found).startswith(
        "No probe was measured at two context lengths"
    )
    assert "there is one" in phrases.verdict(found[0])
    assert "not enough here" in paragraphs(dataset, found)[0]


def test_failed_points_are_told(tmp_path: Path) -> None:
    rows = [*make_rows(fixed=False), failed("gpt", "train", 16384, "oom")]
    rows += [failed("gpt", "prefill", t, "timeout") for t in (16384, 32768)]
    text = " ".join(paragraphs(*told(tmp_path, rows)))
    assert "Training at 16,384 tokens, GPT ran out of memory." in text
    assert "Reading a prompt at 16,384 and 32,768 tokens, GPT did not finish within" in text


def test_a_point_only_the_rwkv_failed_is_a_loss(tmp_path: Path) -> None:
    rows = [*make_rows(fixed=False), failed("rwkv4", "train", 16384, "oom")]
    rows.append(make_row("gpt", "train", 16384))
    first = paragraphs(*told(tmp_path, rows))[0]
    assert "Training at 16,384 tokens, RWKV-4 ran out of memory, where GPT finished." in first


@pytest.mark.parametrize("kernel", ["flash", "efficient", "cudnn", "math", "novel"])
def test_memory_is_called_quadratic_of_the_math_kernel_only(tmp_path: Path, kernel: str) -> None:
    rows = [
        make_row(row.model, row.probe, row.context_length,
                 backends={"wkv": "cpu"} if row.model == "rwkv4" else {"attention": kernel})
        for row in make_rows(fixed=False)
    ]  # fmt: skip
    dataset, found = told(tmp_path, rows)
    note = narrative.memory_note(dataset.all_series[1])
    text = " ".join(paragraphs(dataset, found))
    assert note in text
    if kernel == "novel":
        assert note == ""
    elif kernel == "math":
        assert "training memory grows quadratically" in note
    else:
        assert f"on the {kernel} back end" in note
        assert (
            "training memory grows linearly with the context and its compute quadratically" in note
        )
    assert "quadratic memory" not in text


def windowed(kernel: str = "flash") -> list[Row]:
    """Rows of a Transformer that looks back at 256 tokens."""
    return [
        make_row("transformer", row.probe, row.context_length, config=row.config | {"window": 256},
                 backends={"attention": kernel})
        for row in make_rows(("transformer",), fixed=False)
    ]  # fmt: skip


@pytest.mark.parametrize("kernel", ["flash", "efficient", "math", "novel"])
def test_nothing_is_called_quadratic_that_has_a_window(tmp_path: Path, kernel: str) -> None:
    rows = [*make_rows(("rwkv4",), fixed=False), *windowed(kernel)]
    dataset, found = told(tmp_path, rows)
    note = narrative.memory_note(dataset.all_series[1])
    text = " ".join(paragraphs(dataset, found))
    assert phrases.name(dataset.all_series[1]) == "Transformer window 256"
    assert "looks back at the last 256 tokens only (attention with a sliding window)" in text
    assert "all earlier tokens" not in text and "four times" not in text
    assert "quadratic" not in text and note in text
    assert ("memory and its compute both grow linearly" in note) == (kernel != "novel")


def test_three_kinds_of_memory_in_one_report(tmp_path: Path) -> None:
    rows = make_rows(("rwkv4", "transformer"), fixed=False)
    rows += windowed()
    rows += [
        make_row("transformer", row.probe, row.context_length, backends={"attention": "math"},
                 config=row.config | {"attention": "math"})
        for row in make_rows(("transformer",), fixed=False)
    ]  # fmt: skip
    dataset, found = told(tmp_path, rows)
    blocks = dict(narrative.story(dataset, found))
    about = " ".join(blocks.pop("What is being compared"))
    assert set(blocks) == {
        "RWKV-4 against Transformer", "RWKV-4 against Transformer math",
        "RWKV-4 against Transformer window 256",
    }  # fmt: skip
    flash, math, window = (narrative.memory_note(series) for series in dataset.all_series[1:])
    assert "training memory grows linearly with the context and its compute quadr" in flash
    assert "training memory grows quadratically with the context, as its compute does" in math
    assert "quadratic" not in window and "both grow linearly" in window
    assert all(note in about for note in (flash, math, window))
    assert "An attention model looks back at all earlier tokens" in about
    assert "The Transformer window 256 looks back at the last 256 tokens only" in about


def test_several_pairs(tmp_path: Path) -> None:
    rows = make_rows(("rwkv4", "gpt", "transformer"), fixed=False)
    dataset, found = told(tmp_path, rows)
    assert "the recurrent model overtakes attention in 2 of 2 pairs" in answer.headline(
        dataset, found
    )
    headings = [heading for heading, _ in narrative.story(dataset, found)]
    assert headings == [
        "RWKV-4 against GPT",
        "RWKV-4 against Transformer",
        "What is being compared",
    ]
