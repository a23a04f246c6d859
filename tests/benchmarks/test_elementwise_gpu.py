"""The elementwise formulas where there is no GPU: what is checked, on a CPU."""

from __future__ import annotations

import pytest
import torch

from benchmarks import elementwise_gpu
from benchmarks.elementwise import FORMULAS
from benchmarks.operators import ABOVE

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


@no_gpu
def test_without_a_gpu_formulas_are_not_measured() -> None:
    (row,) = elementwise_gpu.elementwise_rows(1)
    assert row.figures == ("not measured", "")


@pytest.mark.parametrize("name", ["rotate", "bonus_head_norm", "token_shift_mix", "swiglu"])
def test_formulas_are_held_to_fp64(name: str) -> None:
    for dtype, limit in elementwise_gpu.LIMITS.items():
        assert elementwise_gpu.formula_error(name, 40, 128, dtype, "cpu") <= limit


def test_an_error_above_its_limit_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = {torch.float32: 1.0, torch.bfloat16: 1e-4, torch.float16: 1e-4}
    monkeypatch.setattr(
        elementwise_gpu, "formula_error", lambda name, T, C, dtype, device: errors[dtype]
    )
    rows = [*elementwise_gpu.error_rows()]
    assert len(rows) == 3 * len(FORMULAS)
    marked = [row.what for row in rows if ABOVE in row.figures[0]]
    assert marked == [f"{name}, float32" for name in FORMULAS]
