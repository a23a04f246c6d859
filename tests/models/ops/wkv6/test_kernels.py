"""The GPU kernels as they are, launched as on a GPU, on emulated threads, against fp64.

What this leaves open is what only a GPU can show: its own arithmetic, and speed.
"""

import functools

import pytest
import torch
from torch import Tensor

from models.ops.wkv import wkv5, wkv6
from models.ops.wkv6 import cuda
from tests.emulator.driver import Gpu
from tests.models.ops.closeness import assert_close, errors, moved, turned
from tests.models.ops.wkv6.cases import NAMES, Case, random_case, run, slow_case

slow = functools.partial(pytest.param, marks=pytest.mark.slow)
BOTH = pytest.mark.parametrize("constant", [True, False])


def kernels(*inputs: Tensor) -> tuple[Tensor, Tensor]:
    return (wkv6 if inputs[1].dim() == 4 else wkv5)(*inputs, backend="cuda")


def truth(case: Case) -> dict[str, Tensor]:
    operator = wkv6 if case.w.dim() == 4 else wkv5
    return run(functools.partial(operator, backend="reference"), case, torch.float64)


def in_dtype(case: Case, dtype: torch.dtype) -> Case:
    narrow = {name: getattr(case, name).to(dtype) for name in ("r", "k", "v", "grad_y")}
    return case._replace(**narrow)


def segments(gpu: Gpu) -> int:
    """Into how many the forward pass has cut time."""
    last = next(one for one in gpu.launches if "apply" in one.kernel)
    first = next((one for one in gpu.launches if "summarise" in one.kernel), None)
    return last.grid[0] // (last.grid[0] - first.grid[0]) if first else 1


@pytest.mark.parametrize("size", [32, slow(64), slow(128)])
@pytest.mark.parametrize("length", [1, 31, 100])
@BOTH
def test_agrees_with_float64(gpu: Gpu, size: int, length: int, constant: bool) -> None:
    gpu.seed = length
    case = random_case(2, length, 2, size, seed=length, constant=constant)
    assert_close(run(kernels, case), truth(case), 2e-6)
    names = [f"wkv6_apply_float32_{size}"] * 2 + [f"wkv6_keys_{size}"]
    assert [one.kernel for one in gpu.launches] == names


@pytest.mark.parametrize("processors, cut", [(1, 2), slow(2, 3), (100, 4)])
@pytest.mark.parametrize("length", [slow(400), 521])
@BOTH
def test_time_segments(gpu: Gpu, processors: int, cut: int, length: int, constant: bool) -> None:
    gpu.multiprocessors = processors
    case = random_case(1, length, 2, 32, constant=constant)
    assert_close(run(kernels, case), truth(case), 1e-5)
    assert segments(gpu) == (cut if length == 521 else min(cut, 3))


@pytest.mark.parametrize(
    "decay",
    [0.0, slow(-0.0), slow(-1e-7), slow(-1e-3), -0.34, slow(-20.0), -87.0, slow(-1e30), -torch.inf],
)
@pytest.mark.parametrize("processors", [slow(0), 100])
def test_any_decay(gpu: Gpu, decay: float, processors: int) -> None:
    gpu.multiprocessors = processors
    case = random_case(1, 300, 1, 32)
    case = case._replace(w=torch.full_like(case.w, decay))
    got = run(kernels, case)
    assert segments(gpu) == (2 if processors else 1)
    assert_close(got, truth(case), 5e-6)
    if decay < -87:
        assert not got["w"].any()


@pytest.mark.slow
@BOTH
def test_a_slow_decay_keeps_its_digits(gpu: Gpu, constant: bool) -> None:
    case = slow_case(1, 8003, 1, 32, constant)
    assert_close(run(kernels, case), truth(case), 1e-5)  # several times that with fp32 decays


@pytest.mark.parametrize("capability", [(9, 0), slow((7, 5))])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("constant", [slow(True), False])
def test_half_precision_inputs_are_computed_in_float32(
    gpu: Gpu, dtype: torch.dtype, constant: bool, capability: tuple[int, int]
) -> None:
    gpu.capability = capability
    case = in_dtype(random_case(1, 270, 1, 32, constant=constant), dtype)
    wrong = errors(run(kernels, case), truth(case))
    rounding = torch.finfo(dtype).eps
    limits = dict.fromkeys(NAMES, 1e-5) | dict.fromkeys(("y", "r", "k", "v"), rounding)
    assert all(wrong[name] <= limits[name] for name in NAMES), wrong


def test_a_positive_decay_is_nan_in_its_head_from_then_on(gpu: Gpu) -> None:
    tensors = list(random_case(1, 100, 2, 32)[:6])
    clean, _, _ = cuda.wkv6_forward(*tensors, False)  # the operator would look for positive decays
    tensors[1][0, 40, 1, 5] = 1e-3
    y, out, _ = cuda.wkv6_forward(*tensors, False)
    expected = torch.zeros_like(y, dtype=torch.bool)
    expected[0, 41:, 1] = True  # token 40 still reads the state before it
    assert torch.equal(y.isnan(), expected)
    assert torch.equal(y[~expected], clean[~expected])
    assert out[0, 1, 5].isnan().all() and out.isnan().sum() == 32


@pytest.mark.parametrize("dtype", [torch.float32, slow(torch.bfloat16)])
def test_tensors_can_begin_anywhere_in_memory(gpu: Gpu, dtype: torch.dtype) -> None:
    case = in_dtype(random_case(2, 40, 2, 32), dtype)
    want = run(kernels, case)
    for way in (moved, turned):
        got = run(lambda *x, way=way: kernels(*map(way, x)), case)
        assert all(torch.equal(got[name], want[name]) for name in NAMES)


@pytest.mark.parametrize("size", [32, slow(64), slow(128)])
def test_the_order_of_blocks_and_threads_does_not_show(gpu: Gpu, size: int) -> None:
    case, results = random_case(1, 300, 2, size), []
    for gpu.seed, gpu.resident in ((0, 1), (1, 4), (2, 2), (3, 7)):
        results.append(run(kernels, case))
    assert all(torch.equal(results[0][name], x[name]) for x in results[1:] for name in NAMES)


@pytest.mark.parametrize("size", [32, slow(64), slow(128)])
@pytest.mark.parametrize("dtype", [torch.float32, slow(torch.bfloat16), slow(torch.float16)])
@pytest.mark.parametrize("constant", [slow(True), False])
def test_no_thread_races_with_another(
    gpu: Gpu, size: int, dtype: torch.dtype, constant: bool
) -> None:
    gpu.sanitized = True
    case = in_dtype(random_case(1, 265, 1, size, constant=constant), dtype)
    got = run(kernels, case)
    assert segments(gpu) == 2
    if dtype == torch.float32:
        assert_close(got, truth(case), 5e-6)


@pytest.mark.parametrize("heads", [1, 12, 96, 5000])
@pytest.mark.parametrize("chunks", [1, 7, 32, 2048, 31_250])
def test_time_is_cut_only_where_heads_are_few(heads: int, chunks: int) -> None:
    segments, span = cuda._cut(heads, chunks, 132)
    assert (segments - 1) * span < chunks <= segments * span  # all of them, and none empty
    assert segments == 1 or (span >= cuda._SEGMENT and heads * segments <= cuda._BLOCKS * 132)
