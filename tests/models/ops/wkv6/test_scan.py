"""The GPU code, run on the CPU one thread after the other, against fp64.

What this leaves open is what only a GPU can show: that it launches, and speed.
"""

import ctypes
import functools
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from models.ops import backends, build
from models.ops.build import BuildError
from models.ops.wkv import wkv5, wkv6
from models.ops.wkv6 import cuda
from tests.models.ops.closeness import assert_close, errors
from tests.models.ops.wkv6.cases import NAMES, Case, Operator, random_case, run, slow_case


def emulator() -> ctypes.CDLL:
    headers = [*cuda.library.headers]
    return ctypes.CDLL(str(build.shared_library("wkv6_gpu", ["wkv6/emulate.cpp"], headers)))


try:
    library = emulator()
except BuildError as error:
    pytest.skip(str(error), allow_module_level=True)


def call(name: str, *arguments: Tensor | int | None) -> None:
    values = [x.data_ptr() if isinstance(x, torch.Tensor) else int(x or 0) for x in arguments]
    getattr(library, name)(*map(ctypes.c_int64, values))


def scan(
    segments: int, back: bool, w: Tensor, u: Tensor, z: Tensor, *tensors: Tensor | None
) -> None:
    batch, length, heads, size = z.shape
    span = -(-cuda._chunks(z) // segments)
    segments = -(-cuda._chunks(z) // span)
    shape = (batch * heads, length, heads, w.dim() == 2, back, segments, span)
    call(f"wkv6_scan_{cuda._dtype(z)}_{size}", *shape, w, u, z, *tensors)


def keys(r: Tensor, w: Tensor, *tensors: Tensor) -> None:
    batch, length, heads, size = r.shape
    dtype = cuda._DTYPES.index(cuda._dtype(r))
    shape = (batch * heads, dtype, length, heads, w.dim() == 2)
    call(f"wkv6_keys_{size}", *shape, r, w, *tensors)


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Operator]:
    """wkv5 or wkv6 through the whole operator and its bindings, with the emulated kernels below."""
    monkeypatch.setattr(
        backends, "kernels", lambda _, backend, *__: None if backend == "reference" else cuda
    )
    monkeypatch.setattr(cuda, "_keys", keys)

    def cut(segments: int) -> Operator:
        monkeypatch.setattr(cuda, "_scan", functools.partial(scan, segments))
        return lambda *x: (wkv6 if x[1].dim() == 4 else wkv5)(*x, backend="cuda")

    return cut


def truth(case: Case) -> dict[str, Tensor]:
    operator = wkv6 if case.w.dim() == 4 else wkv5
    return run(functools.partial(operator, backend="reference"), case, torch.float64)


@pytest.mark.parametrize("size", cuda.SIZES)
@pytest.mark.parametrize("length", [1, 31, 100])
@pytest.mark.parametrize("constant", [True, False])
def test_agrees_with_float64(
    emulated: Callable[[int], Operator], size: int, length: int, constant: bool
) -> None:
    case = random_case(2, length, 2, size, seed=length, constant=constant)
    assert_close(run(emulated(1), case), truth(case), 2e-6)


@pytest.mark.parametrize("size", cuda.SIZES)
def test_no_barrier_is_missing(emulated: Callable[[int], Operator], size: int) -> None:
    case, results = random_case(1, 100, 1, size), []
    for last_first in (0, 1):
        call("wkv6_order", last_first)
        results.append(run(emulated(2), case))
    call("wkv6_order", 0)
    assert all(torch.equal(results[0][name], results[1][name]) for name in NAMES)


@pytest.mark.parametrize("segments", [2, 3, 7, 100])
@pytest.mark.parametrize("length", [64, 250])
@pytest.mark.parametrize("constant", [True, False])
def test_any_number_of_time_segments(
    emulated: Callable[[int], Operator], segments: int, length: int, constant: bool
) -> None:
    case = random_case(2, length, 2, 32, constant=constant)
    assert_close(run(emulated(segments), case), truth(case), 5e-6)


@pytest.mark.parametrize("decay", [0.0, -0.0, -1e-7, -1e-3, -0.34, -20.0, -87.0, -1e30, -torch.inf])
@pytest.mark.parametrize("segments", [1, 5])
def test_any_decay(emulated: Callable[[int], Operator], decay: float, segments: int) -> None:
    case = random_case(1, 300, 1, 32)
    case = case._replace(w=torch.full_like(case.w, decay))
    got = run(emulated(segments), case)
    assert_close(got, truth(case), 5e-6)
    if decay < -87:
        assert not got["w"].any()


@pytest.mark.parametrize("constant", [True, False])
def test_a_slow_decay_keeps_its_digits(emulated: Callable[[int], Operator], constant: bool) -> None:
    case = slow_case(1, 8003, 1, 32, constant)
    assert_close(run(emulated(3), case), truth(case), 1e-5)  # several times that with fp32 decays


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("constant", [True, False])
def test_half_precision_inputs_are_computed_in_float32(
    emulated: Callable[[int], Operator], dtype: torch.dtype, constant: bool
) -> None:
    case = random_case(2, 140, 2, 32, constant=constant)
    narrow = {name: getattr(case, name).to(dtype) for name in ("r", "k", "v", "grad_y")}
    case = case._replace(**narrow)
    wrong = errors(run(emulated(2), case), truth(case))
    rounding = torch.finfo(dtype).eps
    limits = dict.fromkeys(NAMES, 1e-5) | dict.fromkeys(("y", "r", "k", "v"), rounding)
    assert all(wrong[name] <= limits[name] for name in NAMES), wrong


def test_a_positive_decay_is_nan_in_its_head_from_then_on(
    emulated: Callable[[int], Operator],
) -> None:
    tensors = list(random_case(1, 100, 2, 32)[:6])
    clean, _ = cuda_forward(emulated, tensors)
    tensors[1][0, 40, 1, 5] = 1e-3
    y, out = cuda_forward(emulated, tensors)
    expected = torch.zeros_like(y, dtype=torch.bool)
    expected[0, 41:, 1] = True  # token 40 still reads the state before it
    assert torch.equal(y.isnan(), expected)
    assert torch.equal(y[~expected], clean[~expected])
    assert out[0, 1, 5].isnan().all() and out.isnan().sum() == 32


def cuda_forward(
    emulated: Callable[[int], Operator], tensors: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Without the operator, which looks for positive decays on the CPU."""
    emulated(2)
    return cuda.wkv6_forward(*tensors, False)[:2]


@pytest.mark.parametrize("heads", [1, 12, 96, 5000])
@pytest.mark.parametrize("chunks", [1, 7, 32, 2048, 31_250])
def test_time_is_cut_only_where_heads_are_few(heads: int, chunks: int) -> None:
    segments, span = cuda._cut(heads, chunks, 132)
    assert (segments - 1) * span < chunks <= segments * span  # all of them, and none empty
    assert segments == 1 or (span >= cuda._SEGMENT and heads * segments <= cuda._BLOCKS * 132)
