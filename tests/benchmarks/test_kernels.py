"""The benchmark of the kernels: errors that show, rows that say what is missing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import kernels
from models.ops import backends


@pytest.mark.parametrize("case", ["T=1", "all k equal"])
def test_a_check_has_an_error_for_every_back_end(case: str) -> None:
    ready = [name for name, state in backends.report().items() if state == "ready"]
    row = kernels.check(case, ready)
    assert row.what == case and len(row.figures) == len(ready)
    assert all(float(error) <= kernels.TOLERANCE for error in row.figures)


@pytest.mark.parametrize("fault", [1e-3, float("nan")])
def test_a_wrong_kernel_shows(monkeypatch: pytest.MonkeyPatch, fault: float) -> None:
    honest = kernels.results

    def faulty(
        function: Any, given: Any, weights: Any, dtype: torch.dtype, device: str
    ) -> list[Tensor]:
        first, *rest = honest(function, given, weights, dtype, device)
        return [first + fault if dtype == torch.float32 else first, *rest]

    monkeypatch.setattr(kernels, "results", faulty)
    assert "above the limit" in kernels.check("T=1", ["reference"]).figures[0]


def test_without_a_compiler_there_is_one_row() -> None:
    (row,) = kernels.cpu_rows(1, ["reference"])
    assert row.figures == ("not measured: not ready",)
