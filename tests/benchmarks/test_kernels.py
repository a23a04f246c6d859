"""A benchmark of the kernels: errors that show, rows that admit what is missing."""

import pytest
import torch

from benchmarks import gpu, kernels
from models.ops import backends


@pytest.mark.parametrize("case", ["T=1", "all k equal"])
def test_a_check_has_an_error_for_every_back_end(case):
    ready = [name for name, state in backends.report().items() if state == "ready"]
    name, *found = kernels.check(case, ready)
    assert name == case and len(found) == len(ready)
    assert all(float(error) <= kernels.TOLERANCE for error in found)


@pytest.mark.parametrize("fault", [1e-3, float("nan")])
def test_a_wrong_kernel_shows(monkeypatch, fault):
    honest = kernels.results

    def faulty(given, weights, backend, dtype, device):
        first, *rest = honest(given, weights, backend, dtype, device)
        return [first + fault if dtype == torch.float32 else first, *rest]

    monkeypatch.setattr(kernels, "results", faulty)
    assert "above the limit" in kernels.check("T=1", ["reference"])[1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_its_rows_say_so():
    rows = gpu.gpu_rows(1, None)
    assert [row.measured for row in rows] == ["not measured"] * len(gpu.GPU_GOALS)


def test_times_are_one_per_piece():
    calls = []
    pieces = {name: lambda name=name: calls.append(name) for name in ("a", "b")}
    found = kernels.times(pieces, 3)
    assert set(found) == {"a", "b"} and min(found.values()) > 0
    assert calls.count("a") == calls.count("b") == 5  # two of them to warm up


def test_a_table_is_markdown():
    rows = [gpu.Row("x", "1 ms", "")]
    assert kernels.table(("what", "measured", "goal"), rows) == [
        "| what | measured | goal |",
        "| --- | --- | --- |",
        "| x | 1 ms |  |",
    ]
