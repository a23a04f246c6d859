"""Numbers as people read them."""

from __future__ import annotations

import pytest

from core import units
from probes.analysis.dataset import Series
from probes.analysis.shape_fit import LINEAR, LOGLINEAR, QUADRATIC, Growth
from probes.report import phrases


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (2839.4, "2,840"),
        (1.5, "1.50"),
        (0.01234, "0.0123"),
        (999.6, "1,000"),
        (12, "12.0"),
    ],
)
def test_significant(value: float, text: str) -> None:
    assert units.significant(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2.5e-6, "2.50 µs"),
        (0.0123, "12.3 ms"),
        (0.9999, "1.00 s"),
        (75, "75.0 s"),
        (900, "15.0 min"),
    ],
)
def test_seconds(value: float, text: str) -> None:
    assert units.seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(512, "512 B"), (184_320, "180 KiB"), (2**30, "1.00 GiB"), (2**44, "16,400 GiB")],
)
def test_bytes(value: float, text: str) -> None:
    assert units.size_bytes(value) == text


def test_axis_labels_drop_empty_decimals() -> None:
    assert units.round_quantity(0.005, "s") == "5 ms"
    assert units.round_quantity(0.1, "s") == "100 ms"
    assert units.round_quantity(1.5 * 2**20, "B") == "1.5 MiB"


def test_token_counts_are_whole() -> None:
    assert units.tokens(8192) == "8,192"
    assert units.tokens(77.24) == "77"
    assert units.tokens(2839.4) == "2,840"


def test_factors_say_more_than_one() -> None:
    assert units.times(1.72) == "1.7 times as much"
    assert units.times(1.04) == "1.04 times as much"


def test_shapes() -> None:
    weights = {LINEAR: 0.013, LOGLINEAR: 0.002, QUADRATIC: 0.985}
    assert phrases.shape(Growth(weights)) == "a + bT + cT² (98 %)"
    assert phrases.shape(Growth({LINEAR: 0.44, LOGLINEAR: 0.44, QUADRATIC: 0.12})) == "undecided"
    assert phrases.shape(None) == "too few points to tell"


def test_names_and_lists() -> None:
    assert phrases.name(Series("rwkv7 small", "rwkv7", (), True, "RWKV-7")) == "RWKV-7 small"
    assert phrases.name(Series("gpt", "gpt", (), False, "GPT")) == "GPT"
    transformer = Series("transformer window 64", "transformer", (), False, "the Transformer")
    assert phrases.spoken(transformer) == "the Transformer window 64"
    assert phrases.name(transformer) == "Transformer window 64"
    assert units.listing(["a"]) == "a"
    assert units.listing(["a", "b", "c"]) == "a, b and c"
