"""Packages that only some formats need."""

from __future__ import annotations

import importlib
from typing import Any

from core.errors import UserError

EXTRA = "pip install -e '.[data]'"


def needed(module: str) -> Any:
    """A package of the extra `data`. Raises `UserError` that says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise UserError(f"this data needs the package {package}: {EXTRA}") from None
