"""The crossover at equal quality, on trainings and costs whose truth is known."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest

from probes.analysis import scaling_study
from probes.analysis.costs import Price
from probes.analysis.crossovers import Curve, Point
from probes.analysis.dataset import Series
from probes.analysis.equal_quality import MEASURES, Level, crossing, levels
from probes.analysis.scaling_laws import fit
from probes.analysis.scaling_study import study
from probes.report import quality_text
from tests.probes.synthetic import make_row
from tests.probes.trainings import BUDGETS, SIZES, grid

LENGTHS = (64, 128, 256, 512, 1024, 2048, 4096)
PER_PARAMETER = 1e-9  # seconds


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling_study, "fit", functools.partial(fit, draws=100))


def seconds(model: str, size: float, length: int) -> float:
    """Per token: the RWKV twice the Transformer's, whose attention doubles it at 512 tokens."""
    return PER_PARAMETER * size * (2 if model == "rwkv7" else 1 + length / 512)


def curves(measure: str, noise: float = 0.0, seed: int = 0) -> list[Curve]:
    rng = np.random.default_rng(seed)
    made = []
    for model in ("rwkv7", "transformer"):
        for size in SIZES:
            row = make_row(model, measure, 64, parameters=int(size), size=f"{size:g}")
            points = []
            for length in LENGTHS:
                whole = seconds(model, size, length) * (length if measure == "train" else 1)
                processes = {
                    number: (float(whole * np.exp(rng.normal(0, noise))),) for number in range(5)
                }
                points.append(Point(length, "ok", processes))
            made.append(Curve(Series(f"{model} {size:g}", model, (row,)), tuple(points)))
    return made


@functools.cache
def joined(better: float, noise: float = 0.0, seed: int = 0, decode: str = "all") -> list[Level]:
    trainings = [*grid("rwkv7", better, noise, seed), *grid("transformer", 1.0, noise, seed + 100)]
    found = study(trainings)
    assert found is not None
    measured = {name: curves(name, noise, seed) for name in MEASURES}
    kept = {"all": len(SIZES) * 2, "one": 1, "none": 0}[decode]
    measured["decode"] = measured["decode"][:kept]
    return levels(found, measured)


def truth(better: float, loss: float) -> float:
    """Of decoding: the size of each at the largest budget, from the law itself."""
    data = 2.4 * (BUDGETS[-1] / 1e6) ** -0.25
    mine, other = (1e6 * ((goal - data) / 1.4) ** (-1 / 0.15) for goal in (loss / better, loss))
    return float(512 * (2 * mine / other - 1))


def test_of_equal_laws_it_is_that_of_equal_sizes() -> None:
    found = joined(1.0)
    assert [one.measure for one in found] == ["train"] * 3 + ["decode"] * 3
    for one in found:
        assert one.kind == "crosses"
        assert one.crossover.number == pytest.approx(512, rel=0.02)
        assert list(one.lengths) == [*LENGTHS]
        mine, other = one.sizes[0]
        assert mine.number == pytest.approx(other.number, rel=0.05)


def test_a_better_model_is_smaller_and_crosses_earlier() -> None:
    for one in (one for one in joined(0.98) if one.measure == "decode"):
        assert one.tokens == BUDGETS[-1]
        assert one.crossover.number == pytest.approx(truth(0.98, one.loss), rel=0.06)
        assert one.crossover.number < 512
        mine, other = one.sizes[0]
        assert mine.number < other.number


@pytest.mark.slow
def test_intervals_carry_both_uncertainties() -> None:
    held = []
    for seed in range(6):
        noisy = joined(0.99, 0.004, seed)
        for one in (one for one in noisy if one.measure == "decode"):
            low, high = one.crossover.low or 0.0, one.crossover.high or float("inf")
            held.append(low <= truth(0.99, one.loss) <= high)
            assert low < high
    assert sum(held) >= 15, held  # of 18


def test_what_cannot_be_joined_is_not() -> None:
    for decode in ("none", "one"):
        assert [one.measure for one in joined(1.0, decode=decode)] == ["train"] * 3
    assert joined(0.2) == []  # no loss that both reach


def test_it_is_a_line_of_the_page_and_an_entry_of_the_record() -> None:
    found, price = joined(1.0), Price(2.0, "EUR")
    said, entry = quality_text.table(found, price), quality_text.plain(found, price)[-1]
    line = said.lines[-1]
    assert line.head == "a token, rwkv7 / transformer"
    assert line.cells[1] == "512" and len(line.cells) == len(said.headings) - 1
    assert entry["kind"] == "crosses" and entry["models"] == ["rwkv7", "transformer"]
    at = entry["lengths"]["4096"]
    assert at["price"][0] == pytest.approx(at["seconds"][0]["value"] * 2 / 3600)
    assert at["ratio"]["value"] == pytest.approx(2 / 9, rel=0.05)
    json.dumps(entry, allow_nan=False)
    assert quality_text.table([], None).lines == ()


def test_where_a_ratio_falls_below_one_for_good() -> None:
    lengths = np.array([1.0, 4.0, 16.0])
    assert crossing(lengths, np.array([2.0, 0.5, 0.4])) == pytest.approx(2)
    assert crossing(lengths, np.array([0.5, 2.0, 0.5])) == pytest.approx(8)
    assert crossing(lengths, np.array([0.5, 0.5, 0.5])) == 0
    assert crossing(lengths, np.array([0.5, 0.5, 1.0])) == float("inf")
