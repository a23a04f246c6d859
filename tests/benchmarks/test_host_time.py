"""A launch that does nothing is counted, and the product is as it was afterwards."""

from __future__ import annotations

import pytest
import torch

from benchmarks.host_time import microseconds, no_gpu, operands
from models.ops import nvrtc


@pytest.mark.parametrize("version", [4, 6, 7])
def test_calls_launch(version: int) -> None:
    operator, given = operands(version)
    honest = nvrtc._core
    with no_gpu() as core, torch.no_grad():
        operator(*given, backend="cuda")
        first = core.launches
        operator(*given, backend="cuda")
        assert first >= 1 and core.launches == 2 * first
    assert nvrtc._core is honest
    assert min(microseconds(version, 2)) > 0
