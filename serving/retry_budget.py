"""How often requests may be sent to a second model: a share of all, so that failures do not spread.

A fallback that has to take every request of a failing model, each after it was tried there, would
fail next. Once the budget is spent, a request stays where it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable

SHARE = 0.2
"""Retries that each request earns."""
PER_SECOND = 1.0
"""Retries that each second earns, so that a server with few requests has some."""
MOST = 20.0
"""Retries that can be saved up."""


class RetryBudget:
    """Retries that are left, which requests and time earn."""

    def __init__(
        self,
        share: float = SHARE,
        per_second: float = PER_SECOND,
        most: float = MOST,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """It begins with `most`."""
        self._share, self._per_second, self._most, self._clock = share, per_second, most, clock
        self._saved, self._at = most, clock()

    @property
    def left(self) -> float:
        """Retries that may be taken now; whole ones count."""
        now = self._clock()
        self._earn((now - self._at) * self._per_second)
        self._at = now
        return self._saved

    def request(self) -> None:
        """A request has come."""
        self._earn(self._share)

    def take(self) -> bool:
        """Take a retry, if there is one."""
        if self.left < 1:
            return False
        self._saved -= 1
        return True

    def _earn(self, amount: float) -> None:
        self._saved = min(self._most, self._saved + amount)
