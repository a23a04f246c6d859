"""Progress of a sweep and the time left, in every line, so that a pipe shows it too."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from core.units import clock
from probes.measure.points import Point


class Pace:
    """Estimate how long the points ahead take from those measured."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun = clock()
        self._took: dict[tuple[str, str, str], dict[int, float]] = {}

    def begin(self) -> None:
        self._begun = self._clock()

    def end(self, point: Point) -> None:
        """Record that the point begun last has been measured."""
        self._took.setdefault(_curve(point), {})[point.length] = self._clock() - self._begun

    def left(self, points: Sequence[Point]) -> float | None:
        """Seconds for these; `None` before anything was measured.

        A point takes what the nearest length on its curve took: starting a process and the limits
        on repeats make lengths alike. On a curve without a point, what all took on average.
        """
        every = [seconds for curve in self._took.values() for seconds in curve.values()]
        if not every:
            return None
        total = 0.0
        for point in points:
            if curve := self._took.get(_curve(point)):
                nearest = min(curve, key=lambda length: abs(length / point.length - 1))
                total += curve[nearest]
            else:
                total += sum(every) / len(every)
        return total


def _curve(point: Point) -> tuple[str, str, str]:
    return point.spec.name, point.probe, point.sweep


class Screen:
    """Lines that stay, and on a terminal a bar below them."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(20),
            console=Console(),
            transient=True,
        )
        self._bar = self._progress.add_task("", total=1)

    def __enter__(self) -> Screen:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def say(self, line: str) -> None:
        self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def show(self, point: Point, done: int, total: int, left: float | None) -> None:
        where = f"point {done + 1} of {total}{in_words(left)}: {point}"
        self._progress.update(self._bar, description=where, completed=done, total=total)


def in_words(left: float | None) -> str:
    """`, 2:10 left`; nothing where it is not known."""
    return "" if left is None else f", {clock(left)} left"


def are_disturbed(count: int, still: str = "") -> str:
    """`3 measurements are disturbed`."""
    return f"{count:,} measurement{'s are' if count > 1 else ' is'} {still}disturbed"
