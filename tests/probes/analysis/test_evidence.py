"""Trainings of an experiment: the best rate of each model, and whether the claims came out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from probes.analysis.evidence import ACCURACY, BITS, Claim, figure, left_out, outcome
from probes.analysis.experiments import EXPERIMENTS
from probes.training_runs import TrainingRun


def run(
    model: str, rate: float, seed: int = 0, parameters: int = 1000, **figures: Any
) -> TrainingRun:
    """A finished training; without figures, one that has not finished."""
    config = {"optim.lr": rate, "seed": seed, "model.name": model, "model.size": "tiny"}
    validation = {"x2": {"loss": 1.0, "accuracy": figures.pop("x2", 0.5), "share": 0.0}}
    summary = {
        "model": model, "size": "tiny", "title": model, "recurrent": True, "options": {},
        "parameters": parameters, "val_loss": 1.0, "validation": validation, **figures,
    }  # fmt: skip
    return TrainingRun(Path(f"{model}-{rate}-{seed}"), summary if figures else None, config)


RUNS = [
    *(run("lstm", 1e-3, seed, val_accuracy=value) for seed, value in enumerate((0.7, 0.9, 0.8))),
    *(run("lstm", 1e-2, seed, val_accuracy=value) for seed, value in enumerate((0.9, 1.0, 0.2))),
    *(run("rwkv4", 1e-3, seed, val_accuracy=0.5, x2=0.6) for seed in range(3)),
    run("rwkv4", 1e-2, 0),
]


def test_the_best_rate_of_each_model_counts_and_all_are_shown() -> None:
    found = outcome(RUNS, [], ACCURACY, planned=12)
    lstm, rwkv4 = found.contestants
    assert (lstm.label, lstm.best.rate, lstm.value(ACCURACY)) == ("lstm", 1e-3, 0.8)
    assert [trial.rate for trial in lstm.trials] == [1e-3, 1e-2] and lstm.runs == 6
    assert (rwkv4.unfinished, rwkv4.value("x2/accuracy"), rwkv4.value("x9/accuracy")) == (
        1, 0.6, None,
    )  # fmt: skip
    assert (found.finished, found.planned, found.spread) == (9, 12, 0.0)
    assert not found.is_equal_search
    assert outcome(RUNS[:3] + RUNS[6:9], [], ACCURACY, 6).is_equal_search


@pytest.mark.parametrize("odd", ["x", [1], None, True, float("inf"), 10**400, "1e-3", "\x1b[31m"])
def test_what_is_no_number_is_left_out_and_said(odd: Any) -> None:
    sound = RUNS[0]
    assert left_out(sound) == ""
    of_no_rate = run("lstm", odd, val_accuracy=0.9)
    found = outcome([sound, of_no_rate], [], ACCURACY, 2)
    assert [trial.rate for trial in found.contestants[0].trials] == [1e-3]
    assert found.contestants[0].unfinished == 1
    said = left_out(of_no_rate)
    assert "config.yaml: left out, optim.lr=" in said
    assert said.partition(" left out, ")[2].isprintable()
    assert figure(run("lstm", 1e-3, x2=odd, val_accuracy=0.9), "x2/accuracy") is None
    for validation in (odd, {"x2": odd}):
        assert figure(run("lstm", 1e-3, validation=validation, val_accuracy=0.9), "x2/loss") is None


@pytest.mark.parametrize(
    ("claim", "holds"),
    [
        (Claim("above", ("lstm",), ACCURACY, 0.75), True),
        (Claim("above", ("lstm", "rwkv4"), ACCURACY, 0.75), False),
        (Claim("below", ("rwkv4",), ACCURACY, 0.75), True),
        (Claim("order", ("lstm", "rwkv4")), True),
        (Claim("order", ("rwkv4", "lstm")), False),
        (Claim("order", ("rwkv4", "lstm"), ACCURACY, 0.4), True),
        (Claim("order", ("lstm", "rwkv4"), "x2/accuracy"), False),
        (Claim("order", ("rwkv4", "lstm"), "x2/accuracy"), True),
        (Claim("above", ("gru",), ACCURACY, 0.1), None),
    ],
)
def test_claims(claim: Claim, holds: bool | None) -> None:
    assert outcome(RUNS, [claim], ACCURACY, 9).verdicts == ((claim, holds),)


def test_of_losses_the_lowest_is_the_best() -> None:
    runs = [
        run("a", 1e-3, val_bits_per_byte=2.0),
        run("a", 1e-2, val_bits_per_byte=1.5),
        run("b", 1e-3, val_bits_per_byte=1.52),
    ]
    claims = [Claim("order", ("b", "a"), BITS, 0.03), Claim("order", ("b", "a"), BITS, 0.01)]
    found = outcome(runs, claims, BITS, 4)
    assert [one.label for one in found.contestants] == ["a", "b"]
    assert found.contestants[0].best.rate == 1e-2
    assert [holds for _, holds in found.verdicts] == [True, False]
    assert found.verdict == "not reached so far, 1 of 4 trainings to go"


def test_verdicts_say_what_is_left() -> None:
    good, bad = Claim("above", ("lstm",), ACCURACY, 0.5), Claim("above", ("lstm",), ACCURACY, 0.95)
    unknown = Claim("above", ("gru",), ACCURACY, 0.5)
    assert outcome([], [good], ACCURACY, 5).verdict == "not run"
    assert outcome(RUNS, [good], ACCURACY, 9).verdict == "reached"
    assert outcome(RUNS, [good, bad], ACCURACY, 9).verdict == "not reached"
    assert outcome(RUNS, [good], ACCURACY, 10).verdict == "reached so far, 1 of 10 trainings to go"
    undecided = "undecided, 3 of 12 trainings to go"
    assert outcome(RUNS, [good, unknown], ACCURACY, 12).verdict == undecided


def test_models_of_other_sizes_are_noticed() -> None:
    runs = [run("a", 1e-3, val_accuracy=0.5), run("b", 1e-3, parameters=1100, val_accuracy=0.5)]
    assert outcome(runs, [], ACCURACY, 2).spread == pytest.approx(0.1)


def test_every_experiment_says_what_it_expects() -> None:
    for one in EXPERIMENTS:
        assert one.claims and "arXiv" in one.source and one.question.partition("?")[1]
        assert all(claim.words for claim in one.claims)
    words = [claim.words for claim in EXPERIMENTS[0].claims]
    assert words[1] == (
        "transformer n_conv 4 > rwkv7 > rwkv6 > rwkv5, or behind by less than 0.5 %"
    )
    assert words[0] == "transformer n_conv 4 and rwkv7 above 99 %"
