"""Patterns of layers: what they stand for, and what is none."""

from __future__ import annotations

import pytest

from core.errors import UserError
from models.layer_pattern import expand, largest_window, windows


def test_parts_are_repeated_in_their_order() -> None:
    assert expand("a", "key") == ["a"]
    assert expand(" a*2 , b(x=1, y=2)*2,c ", "key") == ["a", "a", "b(x=1, y=2)", "b(x=1, y=2)", "c"]


@pytest.mark.parametrize("text", ["", "a,", "a*0", "a*b", "a**2", "a*-1", "*3", "a b", "a(x"])
def test_what_is_no_pattern_is_named(text: str) -> None:
    with pytest.raises(UserError, match=r"key='.*': expected parts with commas between them"):
        expand(text, "key")


def test_a_pattern_that_never_ends_is_refused() -> None:
    for text in ("a*99999", "a*1000000000", f"a*{'9' * 5000}", "a,b*65536"):
        with pytest.raises(UserError, match="more than 65,536 layers"):
            expand(text, "key")


def test_windows_are_numbers_or_all() -> None:
    assert windows("64*2,all") == [64, 64, None]
    for text in ("0", "64,none", "-3", "٣", "9" * 5000):
        with pytest.raises(UserError, match=r"model.windows: .* is neither a number of tokens"):
            windows(text)


def test_the_largest_window_is_none_where_a_layer_sees_all() -> None:
    assert largest_window({"n_layer": 2}) is None
    assert largest_window({"window": 24}) == 24
    assert largest_window({"windows": "16,64*3"}) == 64
    assert largest_window({"windows": "16,all"}) is None
