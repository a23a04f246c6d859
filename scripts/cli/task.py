"""The function that a command runs, imported once its line is found good."""

from __future__ import annotations

import importlib
from collections.abc import Callable


def load_task(name: str) -> Callable[..., None]:
    """The function that `name`, "module:function", names."""
    module, _, function = name.partition(":")
    task: Callable[..., None] = getattr(importlib.import_module(module), function)
    return task
