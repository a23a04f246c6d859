"""How kernels are compiled and kept, and what only a GPU can show."""

import re
from pathlib import Path

import pytest
import torch

from core.errors import UserError
from models.ops import backends, build, nvrtc
from models.ops.build import BuildError
from models.ops.wkv import wkv4
from models.ops.wkv4 import cuda
from models.ops.wkv4.reference import CHUNK
from tests.models.ops.closeness import assert_close
from tests.models.ops.wkv4.cases import Case, random_case, run

pytest.importorskip("cuda.core", reason="the optional group [cuda] is not installed")


def test_every_kernel_compiles() -> None:
    cubin = cuda.library.compile_for("sm_90")
    assert cubin[:4] == b"\x7fELF"
    for name in cuda.library.kernels:
        assert name.encode() + b"\0" in cubin


def test_kernels_are_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(
        cuda.library, "compile_for", lambda arch: calls.append(arch) or b"cubin of a test"
    )
    path = cuda.library.cubin("sm_test")
    try:
        assert cuda.library.cubin("sm_test") == path and path.read_bytes() == b"cubin of a test"
        assert calls == ["sm_test"]
    finally:
        path.unlink()


def test_a_failed_build_shows_the_compilers_last_lines(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = tmp_path / cuda.library.source
    source.parent.mkdir()
    source.write_text("__global__ void kernel() { undeclared_name(); }\n")
    monkeypatch.setattr(nvrtc, "SOURCES", tmp_path)
    with pytest.raises(BuildError, match=r"(?s)for sm_90:\n.*undeclared_name"):
        cuda.library.compile_for("sm_90")


def test_geometry_agrees_with_the_header() -> None:
    header = (build.SOURCES / "wkv4/lookback.h").read_text()
    numbers = {"CHUNK": CHUNK}
    for name in ("LANES", "COLUMN", "WARPS", "SEGMENT", "GROUP"):
        (formula,) = re.findall(rf"constexpr int {name} = (.*?);", header)
        numbers[name] = eval(formula, {}, dict(numbers))
    assert numbers["COLUMN"] == cuda._COLUMN
    assert numbers["SEGMENT"] == cuda._SEGMENT
    assert numbers["GROUP"] == cuda._GROUP
    assert numbers["WARPS"] * numbers["LANES"] == cuda._THREADS


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_that_is_the_reason_given() -> None:
    assert backends.report()["cuda"] == "PyTorch sees no CUDA GPU here"


def device_case(*shape: int) -> Case:
    case = random_case(*shape)
    return type(case)(*(x.cuda() for x in case))


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


@needs_gpu
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 300, 70), (1, 20_000, 130), (4, 5000, 768)])
def test_agrees_with_float64(shape: tuple[int, ...]) -> None:
    case = device_case(*shape)
    want = run(lambda *x: wkv4(*x, backend="reference"), case, torch.float64)
    assert_close(run(lambda *x: wkv4(*x, backend="cuda"), case), want, 1e-5)


@needs_gpu
def test_results_are_deterministic() -> None:
    case = device_case(2, 20_000, 130)
    first, second = run(wkv4, case), run(wkv4, case)
    assert all(torch.equal(first[name], second[name]) for name in first)


@needs_gpu
def test_safe_under_cuda_graphs() -> None:
    w, u, k, v, state = device_case(2, 5000, 70)[:5]
    expected = wkv4(w, u, k, v, state)[0].clone()
    torch.cuda.synchronize()
    graph, still = torch.cuda.CUDAGraph(), k.clone()
    with torch.cuda.graph(graph):
        y, _ = wkv4(w, u, still, v, state)
    still.zero_()
    graph.replay()
    assert not torch.equal(y, expected)
    still.copy_(k)
    graph.replay()
    assert torch.equal(y, expected)


@needs_gpu
def test_mixed_devices_are_refused() -> None:
    w, u, k, v, state = random_case(1, 5, 3)[:5]
    with pytest.raises(UserError, match="v is on cuda"):
        wkv4(w, u, k, v.cuda(), state)
