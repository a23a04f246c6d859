"""The benchmark of a GPU's kernels where there is none, and what it times, on a CPU."""

from __future__ import annotations

import pytest
import torch

from benchmarks import gpu

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


@no_gpu
def test_without_a_gpu_its_rows_say_so() -> None:
    rows = [*gpu.gpu_rows(1, None)]
    assert [row.figures for row in rows] == [("not measured", goal) for goal in gpu.GOALS.values()]


@no_gpu
def test_without_a_gpu_formulas_are_not_measured() -> None:
    (row,) = gpu.elementwise_rows(1)
    assert row.figures == ("not measured", "")


@pytest.mark.parametrize("name", ["rotate", "bonus_head_norm", "token_shift_mix", "swiglu"])
def test_formulas_are_held_to_fp64(name: str) -> None:
    for dtype, limit in gpu.LIMITS.items():
        assert gpu.formula_error(name, 40, 128, dtype, "cpu") <= limit


def test_without_its_folder_the_official_kernel_is_not_timed() -> None:
    pieces = {"ours": lambda: None}
    assert gpu.add_official(pieces, [], None) == "no --official"
    assert [*pieces] == ["ours"]


@pytest.mark.parametrize("backward", [False, True])
def test_a_pass_has_the_gradients_of_all_inputs(backward: bool) -> None:
    given = gpu.inputs(2, 5, 3)
    result = gpu.wkv4_pass(given, "reference", backward)()
    if backward:
        assert [x.shape for x in result] == [x.shape for x in given]
    else:
        assert result.shape == given[2].shape and not result.requires_grad
