"""The CUDA kernels: not there yet."""

from __future__ import annotations

from models.wkv.build import BuildError


def load() -> None:
    """Raises `BuildError`."""
    raise BuildError("the CUDA kernels are not part of this checkout")
