"""Types of fields that are read from files, with bounds, and the fields that do not fit theirs.

No quantity that anything here measures lies outside the bounds, and nothing inside them breaks the
arithmetic or the drawing of a report.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, cast

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypeAliasType, TypedDict


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("characters that cannot stand in a line")
    return text


def one_of(words: tuple[str, ...]) -> AfterValidator:
    """The text is one of these words."""

    def check(text: str) -> str:
        if text not in words:
            raise ValueError(f"none of {words}")
        return text

    return AfterValidator(check)


BIG = 2**40  # tokens, sequences
Count = Annotated[int, Field(ge=1, le=BIG)]
Number = Annotated[int, Field(ge=0, le=BIG)]
Parameters = Annotated[int, Field(ge=0, le=10**15)]
Bytes = Annotated[int, Field(ge=0, le=2**60)]
Operations = Annotated[int, Field(ge=0, le=10**30)]
Ratio = Annotated[float, Field(ge=0, le=1e6)]
Rate = Annotated[float, Field(ge=1e-30, le=1e30)]
Seconds = Annotated[float, Field(ge=1e-12, le=1e9)]
Amount = Annotated[float, Field(ge=-1e15, le=1e15)]
"""May be negative: counters of the system may be set back."""
Loss = Annotated[float, Field(ge=1e-9, le=1e4)]
Name = Annotated[str, Field(max_length=200), AfterValidator(_printable)]
Text = Annotated[str, Field(max_length=100_000)]
Scalar = Name | Annotated[float, Field(ge=-1e30, le=1e30)] | bool | None
Plain = TypeAliasType("Plain", "Scalar | Text | list[Plain] | dict[Name, Plain]")
"""Texts, bounded numbers, and lists and objects of them. Readers bound the depth."""

Fields = TypeAdapter[Any]


def fields_of(hints: Mapping[str, Any]) -> Fields:
    """The check of values by name; names without a hint are not looked at."""
    checked = cast(Any, TypedDict)("checked", dict(hints), total=False)
    checked.__pydantic_config__ = ConfigDict(strict=True, allow_inf_nan=False)
    return TypeAdapter(checked)


def misfits(values: Mapping[str, Any], fields: Fields) -> list[str]:
    """Names of the values that do not fit their type, sorted."""
    try:
        fields.validate_python(dict(values))
    except ValidationError as error:
        return sorted({str(problem["loc"][0]) for problem in error.errors(include_url=False)})
    return []


def some(names: list[str]) -> str:
    """`a, b, c`, and of many the first ones."""
    shown = [f"{name:.40}" for name in names]
    return ", ".join(shown if len(shown) < 6 else [*shown[:4], f"and {len(shown) - 4} more"])
