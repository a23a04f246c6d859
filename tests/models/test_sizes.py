"""Parameter counts of the presets: matched over models, and equal to the published models'."""

from __future__ import annotations

import pytest
import yaml

from models.meta import count_parameters
from probes.analysis.comparability import SIZE_TOLERANCE
from tests.registered_models import FOLDER, NAMES, spec_of

PILE, WORLD = 50277, 65536
DEFAULT, SMALL = 3072, 512  # the vocabulary of the lab, and that of quick trials


def count(name: str, size: str, vocab: int) -> int:
    return count_parameters(spec_of(name, size, vocab))


MATCHED = {
    "tiny": 0.525e6,
    "nano": 1.7e6,
    "0.5m": 0.5e6,
    "1m": 0.95e6,
    "2m": 1.64e6,
    "3m": 3.1e6,
    "5m": 5e6,
    "30m": 30e6,
    "125m": 125e6,
}


SIZES = {name: yaml.safe_load((FOLDER / f"{name}.yaml").read_text())["sizes"] for name in NAMES}
ONE_LAYER = "mini"
"""One layer of width 64, for word problems; most models have it."""


def test_every_size_that_all_have_is_matched() -> None:
    shared = set.intersection(*map(set, SIZES.values()))
    assert shared - {ONE_LAYER} == set(MATCHED)


@pytest.mark.parametrize("vocab", [2, 6, 60, DEFAULT])
def test_models_of_one_layer_match_at_every_vocabulary(vocab: int) -> None:
    counts = [count(name, ONE_LAYER, vocab) for name, sizes in SIZES.items() if ONE_LAYER in sizes]
    assert len(counts) >= 6 and max(counts) <= (1 + SIZE_TOLERANCE) * min(counts)


@pytest.mark.parametrize("vocab", [28, 65, 256, 8192])
def test_the_smallest_sizes_match_at_the_vocabularies_of_tasks(vocab: int) -> None:
    counts = [count(name, "tiny", vocab) for name in NAMES]
    assert max(counts) <= (1 + SIZE_TOLERANCE) * min(counts)


@pytest.mark.parametrize(
    ("size", "vocab"), [*((size, DEFAULT) for size in MATCHED), ("tiny", SMALL), ("nano", SMALL)]
)
def test_sizes_match_within_one_percent(size: str, vocab: int) -> None:
    counts = [count(name, size, vocab) for name in NAMES]
    assert max(counts) <= (1 + SIZE_TOLERANCE) * min(counts)
    if vocab == DEFAULT:
        assert 0.97 * MATCHED[size] < min(counts) < 1.03 * MATCHED[size]


def test_the_smallest_gpt_is_that_of_nanogpt() -> None:
    """4 layers, 4 heads, width 128, at the 65 characters of Tiny Shakespeare."""
    gpt = spec_of("gpt", "nano", 65).config
    assert gpt == {"vocab_size": 65, "n_layer": 4, "n_embd": 128, "n_head": 4,
                   "n_positions": 1024, "bias": False, "attention": "auto"}  # fmt: skip
    assert count("gpt", "nano", 65) == 935_296


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
