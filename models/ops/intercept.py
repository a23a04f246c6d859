"""Where instruments and parallelism attach to a model, from outside.

A function marked `interceptable` runs as it stands unless a handler is installed; then the handler
is called in its place. Neither the models nor the operators know who installs one, or why.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

Handler = Callable[[Callable[..., Any], tuple[Any, ...]], Any]
"""Called with the function, as it was before it was marked, and all its arguments by position."""

Function = TypeVar("Function", bound=Callable[..., Any])

# Not a context variable: gradients on a GPU are computed in another thread.
_handler: Handler | None = None

MIXERS: set[Callable[..., Any]] = set()
"""Functions that mix the tokens of a block, as they were before they were marked."""


def interceptable(function: Function) -> Function:
    """The function, which a handler may take the place of. Use it as a decorator."""

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        if _handler is None:
            return function(*arguments, **options)
        bound = inspect.signature(function).bind(*arguments, **options)
        bound.apply_defaults()
        return _handler(function, bound.args)

    return call  # type: ignore[return-value]


def mixer(function: Function) -> Function:
    """The function, interceptable, as the one that mixes the tokens of a block (WKV, attention)."""
    MIXERS.add(function)
    return interceptable(function)


@contextmanager
def intercept(handler: Handler) -> Iterator[None]:
    """Call `handler` in the place of every interceptable function meanwhile."""
    global _handler
    before, _handler = _handler, handler
    try:
        yield
    finally:
        _handler = before


def intercepted() -> bool:
    """Whether a handler is installed."""
    return _handler is not None
