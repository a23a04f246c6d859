"""The geometry of the kernels, and what only a GPU can show."""

import re

import pytest
import torch

from core.errors import UserError
from models.ops import build
from models.ops.wkv import wkv7
from models.ops.wkv7 import cuda, steps
from tests.models.ops.closeness import assert_close
from tests.models.ops.wkv7.cases import Case, random_case, run

pytest.importorskip("cuda.core", reason="the optional group [cuda] is not installed")


def test_geometry_agrees_with_the_headers() -> None:
    numbers: dict[str, int] = {}
    for name in ("warp", "chunk", "forward", "backward", "launch_map"):
        header = (build.SOURCES / f"wkv7/{name}.h").read_text()
        for line in re.findall(r"^constexpr int (.*?);", header, re.MULTILINE):
            for assignment in line.split(","):
                symbol, formula = assignment.split("=")
                numbers[symbol.strip()] = eval(formula.replace("/", "//"), {}, dict(numbers))
    assert numbers["N"] == steps.WIDTHS[0]
    assert numbers["CHUNK"] == cuda.CHUNK
    assert numbers["FORWARD_WARPS"] * numbers["LANES"] == cuda._FORWARD[2].threads
    assert numbers["BACKWARD_WARPS"] * numbers["LANES"] == cuda._BACKWARD[2].threads
    assert numbers["JOIN_WARPS"] * numbers["LANES"] == cuda._JOIN_THREADS
    assert numbers["JOIN_ROWS"] == cuda._JOIN_ROWS


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


def device_case(*shape: int, dtype: torch.dtype = torch.float32) -> Case:
    case = random_case(*shape)
    half = {name: getattr(case, name).to(dtype) for name in ("r", "k", "v", "a", "b", "grad_y")}
    case = case._replace(**half)
    return type(case)(*(x.cuda() for x in case))


@needs_gpu
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 64), (2, 300, 3, 64), (1, 20_000, 1, 32), (1, 100, 2, 128)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_agrees_with_float64(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    case = device_case(*shape, dtype=dtype)
    want = run(lambda *x: wkv7(*x, backend="reference"), case, torch.float64)
    limit = {torch.float32: 1e-5, torch.bfloat16: 1.5e-2, torch.float16: 2e-3}[dtype]
    assert_close(run(lambda *x: wkv7(*x, backend="cuda"), case), want, limit)


@needs_gpu
def test_results_are_deterministic() -> None:
    case = device_case(2, 20_000, 2, 64, dtype=torch.bfloat16)
    first, second = run(wkv7, case), run(wkv7, case)
    assert all(torch.equal(first[name], second[name]) for name in first)


@needs_gpu
def test_safe_under_cuda_graphs() -> None:
    inputs = device_case(1, 5000, 2, 64).inputs
    expected = wkv7(*inputs)[0].clone()
    torch.cuda.synchronize()
    graph, still = torch.cuda.CUDAGraph(), inputs[0].clone()
    with torch.cuda.graph(graph):
        y, _ = wkv7(still, *inputs[1:])
    still.zero_()
    graph.replay()
    assert not torch.equal(y, expected)
    still.copy_(inputs[0])
    graph.replay()
    assert torch.equal(y, expected)


@needs_gpu
def test_a_head_too_large_is_refused() -> None:
    with pytest.raises(UserError, match="head sizes"):
        wkv7(*device_case(1, 2, 1, 272).inputs, backend="cuda")
