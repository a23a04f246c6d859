"""Long calls into a library that does not listen for Ctrl-C, waited for so that it is heard."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from typing import Generic, TypeVar

T = TypeVar("T")

_GLANCE = 0.1  # seconds between looks at whether somebody has pressed Ctrl-C


class Call(Generic[T]):
    """A call that is made in another thread, while this one does something else.

    After an interruption the other thread goes on unheard, and does not keep the process alive.
    """

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._results: list[T] = []
        self._errors: list[BaseException] = []
        self._thread = Thread(target=self._work, daemon=True)
        self._thread.start()

    def result(self) -> T:
        """Wait for the call, interruptibly, and give or raise what it gave or raised."""
        while self._thread.is_alive():
            self._thread.join(_GLANCE)
        if self._errors:
            raise self._errors[0]
        return self._results[0]

    def _work(self) -> None:
        try:
            self._results.append(self._call())
        except BaseException as error:
            self._errors.append(error)


def interruptible(call: Callable[[], T]) -> T:
    """`call()`, made in another thread while this one waits and can be interrupted."""
    return Call(call).result()
