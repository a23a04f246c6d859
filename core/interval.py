"""A value with its 95 % interval, and what stands where there is no number."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite


@dataclass(frozen=True)
class Interval:
    """A value and the ends between which it lies in 95 % of repetitions.

    Each of the three is None where there is no number; nan and infinity are turned into None here,
    so that the values can be written as JSON.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        for name, number in vars(self).copy().items():
            if number is not None:
                object.__setattr__(self, name, float(number) if isfinite(number) else None)

    @property
    def number(self) -> float:
        """The value. Raises `ValueError` where there is none."""
        if self.value is None:
            raise ValueError("this interval has no value")
        return self.value

    @property
    def ends(self) -> tuple[float, float] | None:
        """Both ends, or None unless both are numbers."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    def plain(self) -> dict[str, float | None]:
        """`value`, `low` and `high` as JSON values."""
        return {"value": self.value, "low": self.low, "high": self.high}
