"""The benchmark of a GPU's kernels where there is none, and what it times, on a CPU."""

from __future__ import annotations

import pytest
import torch

from benchmarks import wkv4_gpu as gpu

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


@no_gpu
def test_without_a_gpu_its_rows_say_so() -> None:
    rows = [*gpu.gpu_rows(1, None)]
    assert [row.figures for row in rows] == [("not measured", goal) for goal in gpu.GOALS.values()]


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
