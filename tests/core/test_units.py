"""Numbers as people read them."""

from __future__ import annotations

import math

import pytest

from core import units


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


def test_one_is_no_plural() -> None:
    assert [units.counted(count, "training") for count in (0, 1, 1000)] == [
        "0 trainings",
        "1 training",
        "1,000 trainings",
    ]


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


@pytest.mark.parametrize(
    ("value", "text"), [(130, "2:10"), (3725, "1:02:05"), (59.6, "1:00"), (0, "0:00")]
)
def test_clock(value: float, text: str) -> None:
    assert units.clock(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(80e9, "80.0 GB"), (999.9e9, "1.00 TB"), (5e5, "0.500 MB")]
)
def test_devices_are_sold_in_powers_of_1000(value: float, text: str) -> None:
    assert units.device_bytes(value) == text


def test_bits_per_byte() -> None:
    assert units.bits_per_byte(math.log(2), 0.25) == pytest.approx(0.25)


def test_lists() -> None:
    assert units.listing(["a"]) == "a"
    assert units.listing(["a", "b", "c"]) == "a, b and c"
