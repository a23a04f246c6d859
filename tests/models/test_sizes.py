"""Parameter counts of the presets: matched over contestants, and equal to the published models'."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from models.registry import build
from tests.contestants import NAMES, spec_of

PILE, WORLD = 50277, 65536


def count(name: str, size: str, vocab: int) -> int:
    with torch.device("meta"):
        model: Any = build(spec_of(name, size, vocab))
    return sum(parameter.numel() for parameter in model.parameters())


MATCHED = {
    "0.5m": 0.5e6,
    "1m": 0.95e6,
    "2m": 1.64e6,
    "3m": 3.1e6,
    "5m": 5e6,
    "30m": 30e6,
    "125m": 125e6,
}


@pytest.mark.parametrize(("size", "about"), MATCHED.items())
def test_sizes_match_within_one_percent(size: str, about: float) -> None:
    counts = [count(name, size, 3072) for name in NAMES]
    assert max(counts) <= 1.01 * min(counts)
    assert 0.97 * about < min(counts) < 1.03 * about


def rwkv4(L: int, C: int, V: int) -> int:
    """arXiv 2305.13048, table 2."""
    return 2 * V * C + 13 * C**2 * L + C * (11 * L + 4)


def eagle(L: int, C: int, V: int) -> int:
    """arXiv 2404.05892, appendix; F is rounded down to a multiple of 32, which C / 64 allows."""
    return 2 * V * C + 13 * C**2 * L + 14 * C * L + 4 * C


def finch(L: int, C: int, V: int) -> int:
    """The same with ranks 32 and 64, twice that from C = 4096 on."""
    ranks = 448 * (2 if C >= 4096 else 1)
    return 2 * V * C + 13 * C**2 * L + (ranks + 16) * C * L + 4 * C


FORMULAS = [
    ("rwkv4", "0.1b", PILE, rwkv4(12, 768, PILE), 1.693e8),
    ("rwkv4", "0.4b", PILE, rwkv4(24, 1024, PILE), 4.304e8),
    ("rwkv4", "1.5b", PILE, rwkv4(24, 2048, PILE), 1.515e9),
    ("rwkv4", "3b", PILE, rwkv4(32, 2560, PILE), 2.985e9),
    ("rwkv4", "7b", PILE, rwkv4(32, 4096, PILE), 7.393e9),
    ("rwkv4", "14b", PILE, rwkv4(40, 5120, PILE), 1.415e10),
    ("rwkv5", "0.4b", WORLD, eagle(24, 1024, WORLD), 4.62e8),
    ("rwkv5", "1.5b", WORLD, eagle(24, 2048, WORLD), 1.58e9),
    ("rwkv5", "3b", WORLD, eagle(32, 2560, WORLD), 3.06e9),
    ("rwkv5", "7b", WORLD, eagle(32, 4096, WORLD), 7.52e9),
    ("rwkv6", "1.5b", WORLD, finch(24, 2048, WORLD), 1.60e9),
    ("rwkv6", "3b", WORLD, finch(32, 2560, WORLD), 3.10e9),
    ("rwkv6", "7b", WORLD, finch(32, 4096, WORLD), 7.64e9),
    ("rwkv6", "14b", WORLD, finch(61, 4096, WORLD), 1.41e10),
]


@pytest.mark.parametrize(("name", "size", "vocab", "formula", "published"), FORMULAS)
def test_official_sizes(name: str, size: str, vocab: int, formula: int, published: float) -> None:
    assert count(name, size, vocab) == formula
    assert formula == pytest.approx(published, rel=0.005)


@pytest.mark.parametrize(
    ("size", "published"),
    [("0.1b", 191034624), ("0.4b", 450767872), ("1.5b", 1527404544), ("3b", 2947735040)],
)
def test_rwkv7_has_the_released_counts(size: str, published: int) -> None:
    assert count("rwkv7", size, WORLD) == published


@pytest.mark.parametrize(("size", "about"), [("7b", 7.2e9), ("14b", 13.3e9)])
def test_rwkv7_has_the_released_names(size: str, about: float) -> None:
    assert count("rwkv7", size, WORLD) == pytest.approx(about, rel=0.02)
