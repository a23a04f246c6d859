"""Whether plain values, read from a file, are what the types of their fields say.

A type may carry bounds (`Annotated[int, Within(1, 10)]`): no quantity that anything here measures
lies outside them, and nothing inside them breaks the arithmetic or the drawing of a report.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Annotated, Any

Check = Callable[[Any], bool]


@dataclass(frozen=True)
class Within:
    """Bounds of a number, both included."""

    low: float
    high: float

    def holds(self, value: Any) -> bool:
        return bool(self.low <= value <= self.high)


@dataclass(frozen=True)
class Letters:
    """A text of at most so many characters; `printable` ones can stand in any line."""

    most: int
    printable: bool = True

    def holds(self, value: Any) -> bool:
        return len(value) <= self.most and (value.isprintable() or not self.printable)


@dataclass(frozen=True)
class OneOf:
    """One of these words."""

    words: tuple[str, ...]

    def holds(self, value: Any) -> bool:
        return value in self.words


@dataclass(frozen=True)
class Single:
    """A single value: a number, a short text, true, false or nothing."""

    def holds(self, value: Any) -> bool:
        return _is_single(value)


BIG = 2**40  # tokens, sequences
Count = Annotated[int, Within(1, BIG)]
Number = Annotated[int, Within(0, BIG)]
Parameters = Annotated[int, Within(0, 10**15)]
Bytes = Annotated[int, Within(0, 2**60)]
Operations = Annotated[int, Within(0, 10**30)]
Rate = Annotated[float, Within(1e-30, 1e30)]
Seconds = Annotated[float, Within(1e-12, 1e9)]
Amount = Annotated[float, Within(-1e15, 1e15)]
"""May be negative: counters of the system may be set back."""
Loss = Annotated[float, Within(1e-9, 1e4)]
Name = Annotated[str, Letters(200)]
Text = Annotated[str, Letters(100_000, printable=False)]
Scalar = Annotated[Any, Single()]


def check_of(hint: Any) -> Check:
    """The test of values that a type stands for; `Any` allows all plain values of modest size."""
    if hint is Any:
        return _is_plain
    if hint in (bool, str):
        return lambda value: isinstance(value, hint)
    if hint is type(None):
        return lambda value: value is None
    if hint is int:
        return lambda value: isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return _is_number
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        first, bounds = check_of(inner[0]), inner[1:]
        return lambda value: first(value) and all(bound.holds(value) for bound in bounds)
    if origin in (typing.Union, types.UnionType):
        any_of = [check_of(option) for option in inner]
        return lambda value: any(check(value) for check in any_of)
    if origin is list:
        each = check_of(inner[0])
        return lambda value: isinstance(value, list) and all(map(each, value))
    if origin is dict:
        key, each = check_of(inner[0]), check_of(inner[1])
        return lambda value: (
            isinstance(value, dict) and all(key(k) and each(item) for k, item in value.items())
        )
    raise TypeError(f"no check of {hint}")


def misfits(values: Mapping[str, Any], checks: Mapping[str, Check]) -> list[str]:
    """Names of the values that fail their check, sorted."""
    return sorted(name for name, check in checks.items() if not check(values[name]))


def some(names: list[str]) -> str:
    """`a, b, c`, and of many the first ones."""
    shown = [f"{name:.40}" for name in names]
    return ", ".join(shown if len(shown) < 6 else [*shown[:4], f"and {len(shown) - 4} more"])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


_is_single = check_of(Name | Annotated[float, Within(-1e30, 1e30)] | bool | None)
_is_name, _is_text = check_of(Name), check_of(Text)


def _is_plain(value: Any) -> bool:
    """Texts, bounded numbers, and lists and objects of them. Readers bound the depth."""
    if isinstance(value, dict):
        return all(_is_name(key) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return _is_single(value) or _is_text(value)
