"""Keys and queries that are hard for hulls, by name."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

Case = tuple[Tensor, Tensor]
"""q and k `[T, 2]`, fp32."""


def _normal(length: int, g: Generator) -> Tensor:
    return torch.randn(length, 2, generator=g)


def _small(length: int, g: Generator, most: int = 3) -> Tensor:
    return torch.randint(-most, most + 1, (length, 2), generator=g).float()


def _circle(length: int, g: Generator) -> Tensor:
    angle = 2 * math.pi * torch.rand(length, generator=g)
    return torch.stack((angle.cos(), angle.sin()), -1)


def _parabola(length: int, g: Generator) -> Case:
    i = torch.arange(length).float()
    asked = torch.randint(0, length, (length,), generator=g).float()
    return torch.stack((asked, torch.ones(length)), -1), torch.stack((2 * i, -i * i), -1)


def _line(length: int, g: Generator) -> Case:
    """All on one line, many of them equal, with queries normal to it, along it, and zero."""
    place = torch.randint(-length // 8, length // 8 + 1, (length, 1), generator=g).float()
    return _small(length, g, 1), place * torch.tensor([1.0, -1.0])


def _last_bits(length: int, g: Generator) -> Case:
    """Keys and queries that differ in their last bits, so that rounded scores would tie."""
    ulp = 2.0**-23
    steps = torch.randint(0, 9, (2, length, 2), generator=g).float()
    return torch.tensor([1.0, -1.0]) + (steps[0] - 4) * ulp, 1 + steps[1] * ulp


def _magnitudes(length: int, g: Generator) -> Case:
    """From 1e-26 to 1e26."""
    size = torch.randn(2, length, 1, generator=g).clamp(-3, 3).mul(20).exp()
    return _normal(length, g) * size[0], _normal(length, g) * size[1]


def _growing(length: int, g: Generator) -> Case:
    """Every key drops most of those before it."""
    return _normal(length, g), _circle(length, g) * torch.arange(1.0, length + 1)[:, None]


def _columns(length: int, g: Generator) -> Case:
    """Two columns of keys, whose ends tie for q = (1, 0) and (-1, 0)."""
    k = _small(length, g, 40)
    k[:, 0] = k[:, 0].sign()
    return _small(length, g, 1), k


CASES: dict[str, Callable[[int, Generator], Case]] = {
    "normal": lambda length, g: (_normal(length, g), _normal(length, g)),
    "circle": lambda length, g: (_normal(length, g), _circle(length, g)),
    "small integers": lambda length, g: (_small(length, g), _small(length, g)),
    "all equal": lambda length, g: (_normal(length, g), torch.ones(length, 2)),
    "parabola": _parabola,
    "parabola below": lambda length, g: tuple(-x for x in _parabola(length, g)),  # type: ignore[dict-item,return-value]
    "line": _line,
    "columns": _columns,
    "last bits": _last_bits,
    "magnitudes": _magnitudes,
    "growing": _growing,
    "shrinking": lambda length, g: (_small(length, g, 1), _growing(length, g)[1].flip(0)),
}


def case(name: str, length: int, seed: int = 0) -> Case:
    """q and k of one case."""
    return CASES[name](length, torch.Generator().manual_seed(seed))
