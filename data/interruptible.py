"""Ctrl-C during a long call into a library that does not listen for it."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from typing import TypeVar

T = TypeVar("T")

_GLANCE = 0.1  # seconds between looks at whether somebody has pressed Ctrl-C


def interruptible(call: Callable[[], T]) -> T:
    """`call()`, made in another thread while this one waits and can be interrupted.

    After an interruption the other thread goes on unheard, and does not keep the process alive.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = Thread(target=work, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_GLANCE)
    if errors:
        raise errors[0]
    return results[0]
