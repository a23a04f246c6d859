"""An interval holds numbers or None, and says so as JSON values."""

from __future__ import annotations

import json
from math import inf, nan

import numpy as np
import pytest

from core.interval import Interval


def test_what_is_no_number_is_none() -> None:
    assert Interval(1.0, nan, inf) == Interval(1.0)
    assert Interval(nan) == Interval()
    with pytest.raises(ValueError, match="no value"):
        _ = Interval(nan).number


def test_ends_come_in_pairs() -> None:
    assert Interval(1.0, 0.5, 2.0).ends == (0.5, 2.0)
    assert Interval(1.0, 0.5).ends is None


def test_its_values_are_json() -> None:
    interval = Interval(np.float64(1.5), *np.array([1, 2]))
    assert (
        json.dumps(interval.plain(), allow_nan=False) == '{"value": 1.5, "low": 1.0, "high": 2.0}'
    )
