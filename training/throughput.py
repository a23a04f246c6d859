"""Tokens per second over the steps that count: not the warm-up, not the pauses between steps."""

from __future__ import annotations

import time
from collections.abc import Callable


class Throughput:
    """A stopwatch over training steps.

    The first `warmup` steps after a start (allocation, caches, compilation) are left out, and so
    is everything before the next `start` (validation, saving). `clock` is in seconds.
    """

    def __init__(self, warmup: int = 3, clock: Callable[[], float] = time.perf_counter) -> None:
        self._warmup = warmup
        self._clock = clock
        self._last: float | None = None
        self.tokens = 0
        self.seconds = 0.0

    def start(self) -> None:
        """Start, or start again, the time of the next step."""
        self._last = self._clock()

    def step(self, tokens: int) -> None:
        """One step over `tokens` tokens has ended. Raises `RuntimeError` before `start`."""
        if self._last is None:
            raise RuntimeError("Throughput.step before Throughput.start")
        now = self._clock()
        if self._warmup > 0:
            self._warmup -= 1
        else:
            self.tokens += tokens
            # A clock set back by somebody must not make a negative rate.
            self.seconds += max(now - self._last, 0.0)
        self._last = now

    @property
    def tokens_per_second(self) -> float | None:
        """The rate so far, or None while there is nothing to divide by."""
        return self.tokens / self.seconds if self.seconds > 0 else None
