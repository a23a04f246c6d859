"""Seconds of training steps, and tokens per second over those of them that are warmed up."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


class Throughput:
    """A stopwatch over training steps, which goes on where that of an earlier session ended.

    Everything before the next `start` (validation, saving) is left out, and from rates the first
    `warmup` steps of each session too (allocation, caches, compilation). `clock` is in seconds.
    """

    def __init__(self, warmup: int = 3, clock: Callable[[], float] = time.perf_counter) -> None:
        self._warmup = warmup
        self._clock = clock
        self._last: float | None = None
        self.tokens = 0
        """Tokens of all warmed-up steps, of all sessions."""
        self.seconds = 0.0
        """Seconds of the same steps."""
        self.all_seconds: float | None = 0.0
        """Seconds of every step of every session; None where one did not count them."""
        self._before = (0, 0.0)
        """Tokens and seconds of earlier sessions."""

    def start(self) -> None:
        """Start, or start again, the time of the next step."""
        self._last = self._clock()

    def step(self, tokens: int, warm: bool = True) -> None:
        """One step over `tokens` tokens has ended. Raises `RuntimeError` before `start`.

        One that is not `warm`, because something was compiled in it, is left out of rates too.
        """
        if self._last is None:
            raise RuntimeError("Throughput.step before Throughput.start")
        now = self._clock()
        # A clock set back by somebody must not make a negative rate.
        seconds = max(now - self._last, 0.0)
        self._last = now
        if self.all_seconds is not None:
            self.all_seconds += seconds
        if self._warmup > 0:
            self._warmup -= 1
        elif warm:
            self.tokens += tokens
            self.seconds += seconds

    def state(self) -> dict[str, Any]:
        """Plain values from which a later session goes on."""
        return {"tokens": self.tokens, "seconds": self.seconds, "all_seconds": self.all_seconds}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from the `state` of an earlier session."""
        self.tokens, self.seconds = state["tokens"], state["seconds"]
        self.all_seconds = state.get("all_seconds")
        self._before = (self.tokens, self.seconds)

    @property
    def tokens_per_second(self) -> float | None:
        """Over the warmed-up steps of all sessions, or None if there are none."""
        return _rate(self.tokens, self.seconds)

    @property
    def tokens_per_second_now(self) -> float | None:
        """Over the warmed-up steps of this session, or None while there are none."""
        tokens, seconds = self._before
        return _rate(self.tokens - tokens, self.seconds - seconds)


def _rate(tokens: int, seconds: float) -> float | None:
    return tokens / seconds if seconds > 0 else None
