"""Progress of a long validation, in lines like those of the training before it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from core.units import clock

LONG = 10.0
"""Seconds. What takes less says nothing; where standard error is no terminal, lines are so far
apart at least."""
SETTLED = 1.0
"""Seconds after which the pace is believed: the first batch may compile."""


class Windows:
    """A bar on a terminal, lines of text elsewhere; nothing for what is done within `LONG`.

    A context manager, which leaves the terminal as it was. `clock` is in seconds.
    """

    def __init__(
        self,
        title: str,
        total: int,
        clock: Callable[[], float] = time.monotonic,
        console: Console | None = None,
        unit: str = "windows",
    ) -> None:
        """`total` windows, or others of a `unit`, are going to be read."""
        self._title, self._total, self._clock, self._unit = title, total, clock, unit
        self._console = console or Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._bar = self._progress.add_task("", total=total)
        self._begin = self._last = clock()

    def __enter__(self) -> Windows:
        self._begin = self._last = self._clock()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, done: int) -> None:
        """`done` windows have been read so far, at least one."""
        now = self._clock()
        passed = now - self._begin
        left = passed / done * (self._total - done)
        if done == self._total or passed + left < LONG:
            return
        line = f"{self._title}, {done:,} of {self._total:,} {self._unit}{time_left(left)}"
        if self._console.is_terminal:
            if passed >= SETTLED:
                self._progress.update(self._bar, description=line, completed=done)
                self._progress.start()
        elif now - self._last >= LONG:
            self._last = now
            # Not through rich, which wraps what is wider than it believes a pipe to be.
            print(line, file=sys.stderr, flush=True)


def time_left(seconds: float) -> str:
    """`  2:10 left`, as it stands in the lines of a training."""
    return f"  {clock(seconds)} left"
