"""What answering costs a worker, shared out among the requests it was done for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from core.energy import Counter
from serving.requests import Event, Spent


class Meter:
    """Seconds, processor seconds and joules of one round of an engine after the other.

    What is done for several requests at once is shared in equal parts. Joules are those of the
    whole device during the round, in proportion to the seconds.
    """

    def __init__(
        self,
        counter: Counter,
        clock: Callable[[], float] = time.perf_counter,
        processor: Callable[[], float] = time.process_time,
    ) -> None:
        """`clock` and `processor` return seconds."""
        self._counter, self._clock, self._processor = counter, clock, processor
        self._spent: dict[int, Spent] = {}
        self._before: list[float] | None = None

    @contextmanager
    def working(self, numbers: Sequence[int]) -> Iterator[None]:
        """Measure the body, which is for the requests of these numbers."""
        if self._before is None:
            self._before = self._counter.read()
        start, before = self._clock(), self._processor()
        try:
            yield
        finally:
            share = Spent(
                (self._clock() - start) / len(numbers), (self._processor() - before) / len(numbers)
            )
            for number in numbers:
                self._spent[number] = self._spent.get(number, Spent()) + share

    def stated(self, events: Sequence[Event]) -> list[Event]:
        """End the round: the last event of each request says what the request has cost in it."""
        spent, total = self._spent, sum(one.seconds for one in self._spent.values())
        if self._counter.sources and self._before is not None and total:
            joules = self._counter.since(self._before)
            spent = {
                number: replace(one, joules=joules * one.seconds / total)
                for number, one in spent.items()
            }
        self._spent, self._before = {}, None
        last = {event.id: place for place, event in enumerate(events)}
        return [
            replace(event, spent=spent[event.id])
            if last[event.id] == place and event.id in spent
            else event
            for place, event in enumerate(events)
        ]
