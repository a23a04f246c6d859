"""The models, one file each, in plain PyTorch: no Lightning, Hydra or wandb."""

from __future__ import annotations

import core.openmp  # noqa: F401  before anything here imports torch

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.formats.load import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """`load`, and with it torch, when it is first asked for."""
    if name != "load":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from models.formats.load import load

    return load
