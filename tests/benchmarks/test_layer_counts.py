"""What a layer costs on a GPU, by count: the goals, and what was there before the kernels."""

from __future__ import annotations

import pytest

from benchmarks.layer_counts import count


@pytest.mark.parametrize(
    ("name", "launches", "traffic", "kept"),
    [
        ("rwkv7", 90, 300, 85),
        ("transformer", 35, 170, 45),
        pytest.param("rwkv6", 85, 300, 90, marks=pytest.mark.slow),
    ],
)
def test_a_layer_is_within_its_goal(name: str, launches: int, traffic: int, kept: int) -> None:
    found = count(name, fused=True)
    assert found.launches <= launches and found.traffic <= traffic and found.kept <= kept, found


@pytest.mark.slow
def test_plain_torch_takes_what_it_took() -> None:
    found = count("rwkv7", fused=False)
    assert found.launches > 300 and found.traffic > 2000 and found.kept > 160, found
