"""Which head sizes have kernels, and what only a GPU can show."""

import pytest
import torch

from core.errors import UserError
from models.ops import backends
from models.ops.wkv import wkv5, wkv6
from models.ops.wkv6 import cuda
from tests.models.ops.closeness import assert_close
from tests.models.ops.wkv6.cases import Case, Operator, random_case, run

pytest.importorskip("cuda.core", reason="the optional group [cuda] is not installed")


def test_a_head_size_without_kernels_is_left_to_the_reference(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda.library, "load", lambda: None)  # as if there were a GPU
    for cached in (backends._notice, backends.why_not):
        cached.cache_clear()
    gpu = torch.device("cuda")
    assert backends.resolve("wkv6", "auto", gpu, 64) == "cuda"
    assert not caplog.records
    assert backends.resolve("wkv6", "auto", gpu, 40) == "reference"
    assert "head sizes 32, 64, 128, not 40" in caplog.text
    with pytest.raises(UserError, match="head sizes 32, 64, 128, not 40"):
        backends.resolve("wkv6", "cuda", gpu, 40)
    backends.why_not.cache_clear()


def device_case(*shape: int, constant: bool = False) -> Case:
    case = random_case(*shape, constant=constant)
    return type(case)(*(x.cuda() for x in case))


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
SHAPES = [(1, 1, 1, 64), (2, 300, 3, 32), (1, 20_000, 2, 64), (4, 1000, 12, 64), (1, 700, 2, 128)]


def operator(case: Case) -> Operator:
    return wkv5 if case.w.dim() == 2 else wkv6


@needs_gpu
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("constant", [True, False])
def test_agrees_with_float64(shape: tuple[int, ...], constant: bool) -> None:
    case = device_case(*shape, constant=constant)
    want = run(lambda *x: operator(case)(*x, backend="reference"), case, torch.float64)
    assert_close(run(lambda *x: operator(case)(*x, backend="cuda"), case), want, 1e-5)


@needs_gpu
@pytest.mark.parametrize("constant", [True, False])
def test_results_are_deterministic(constant: bool) -> None:
    case = device_case(2, 20_000, 2, 64, constant=constant)
    first, second = run(operator(case), case), run(operator(case), case)
    assert all(torch.equal(first[name], second[name]) for name in first)


@needs_gpu
def test_safe_under_cuda_graphs() -> None:
    r, w, k, v, u, state = device_case(1, 5000, 2, 64)[:6]
    expected = wkv6(r, w, k, v, u, state)[0].clone()
    torch.cuda.synchronize()
    graph, still = torch.cuda.CUDAGraph(), k.clone()
    with torch.cuda.graph(graph):
        y, _ = wkv6(r, w, still, v, u, state)
    still.zero_()
    graph.replay()
    assert not torch.equal(y, expected)
    still.copy_(k)
    graph.replay()
    assert torch.equal(y, expected)
