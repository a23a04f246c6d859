"""The contestants, and nothing of the bench: plain PyTorch, no Lightning, Hydra or wandb."""

from __future__ import annotations

from models.waiting import wait_asleep

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.loading import load

__all__ = ["load"]

wait_asleep()


def __getattr__(name: str) -> Any:
    """`load`, and with it torch, when it is first asked for."""
    if name != "load":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from models.loading import load

    return load
