"""A circuit breaker: a model that fails again and again is left alone for a while."""

from __future__ import annotations

import time
from collections.abc import Callable

FAILURES = 3
"""In a row, which open a breaker."""
REST = 10.0
"""Seconds that an open breaker lets pass before the next trial."""


class Breaker:
    """Whether a route may ask a model.

    Closed, it lets every request through. `FAILURES` in a row open it: then one request is let
    through in `REST` seconds, as a trial (half open). Any answer closes it.
    """

    def __init__(
        self,
        failures: int = FAILURES,
        rest: float = REST,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`rest` in seconds of `clock`."""
        self._most, self._rest, self._clock = failures, rest, clock
        self._failures = 0
        self._next = 0.0  # the instant from which there may be a trial
        self._on_trial = False

    @property
    def state(self) -> str:
        """`closed`, `open`, or `half-open` while the outcome of a trial is awaited."""
        if self._failures < self._most:
            return "closed"
        return "half-open" if self._on_trial else "open"

    def admits(self) -> bool:
        """Whether a request may be sent now. Where it is a trial, no other is for a while."""
        if self.state == "closed":
            return True
        now = self._clock()
        if now < self._next:
            return False
        self._next, self._on_trial = now + self._rest, True
        return True

    def succeeded(self) -> None:
        """The model has answered."""
        self._failures, self._on_trial = 0, False

    def failed(self) -> None:
        """The model has failed, or was too slow."""
        self._failures += 1
        self._on_trial = False
        self._next = self._clock() + self._rest
