"""The benchmark of WKV-7: its yardstick compiles, and without a GPU its rows say so."""

from __future__ import annotations

import pytest
import torch

from benchmarks import wkv7

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


def test_the_yardstick_compiles() -> None:
    pytest.importorskip("cuda.core", reason="the optional group [cuda] is not installed")
    cubin = wkv7.yardstick.compile_for("sm_90")
    for name in wkv7.yardstick.kernels:
        assert name.encode() + b"\0" in cubin


@no_gpu
def test_without_a_gpu_its_rows_say_so() -> None:
    rows = [*wkv7.check_rows(), *wkv7.time_rows(1)]
    assert {row.figures[0] for row in rows} == {"not measured"}
    assert len(rows) == 1 + len(wkv7.GOALS)


def test_its_inputs_are_those_of_a_layer() -> None:
    given = wkv7.inputs(1, 3, 2, torch.float32, "cpu")
    y, state = wkv7.call("reference")(*given)
    assert y.shape == given[0].shape and state.shape == given[-1].shape
    assert y.isfinite().all() and state.isfinite().all()
