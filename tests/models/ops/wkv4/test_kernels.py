"""The GPU kernels as they are, launched as on a GPU, on emulated threads, against fp64.

What this leaves open is what only a GPU can show: its own arithmetic, and speed.
"""

import functools

import pytest
import torch
from torch import Tensor

from models.ops.wkv import wkv4
from models.ops.wkv4 import cuda
from tests.emulator.driver import Gpu
from tests.models.ops.closeness import assert_close, errors, moved, turned
from tests.models.ops.wkv4.cases import NAMES, Case, random_case, run
from tests.models.ops.wkv4.test_cpu import RAMPS

SEGMENT, GROUP = cuda._SEGMENT, cuda._GROUP  # tokens; segments
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
kernels = functools.partial(wkv4, backend="cuda")
slow = functools.partial(pytest.param, marks=pytest.mark.slow)


def truth(case: Case) -> dict[str, Tensor]:
    return run(functools.partial(wkv4, backend="reference"), case, torch.float64)


def in_dtype(case: Case, dtype: torch.dtype) -> Case:
    return case._replace(k=case.k.to(dtype), v=case.v.to(dtype), grad_y=case.grad_y.to(dtype))


@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 1),
        (2, 33, 2),
        (2, 257, 65),
        (1, 300, 130),
        *(slow((2, t, c)) for c in (1, 63, 64) for t in (3, 33, 256, 300)),
    ],
)
def test_agrees_with_float64(gpu: Gpu, shape: tuple[int, int, int]) -> None:
    gpu.seed = length = shape[1]
    case = random_case(*shape, seed=length, fresh=length % 2 == 0)
    assert_close(run(kernels, case), truth(case), 1e-5)
    names = [f"wkv4_{kind}" for kind in ("forward_float32", "backward_float32", "reduce")]
    assert [one.kernel for one in gpu.launches] == names


@pytest.mark.parametrize(
    "length",
    [
        slow(SEGMENT * GROUP),
        SEGMENT * GROUP + 1,
        slow(SEGMENT * GROUP * 3 - 5),
        slow(100_003),
    ],
)
def test_many_segments_and_groups(gpu: Gpu, length: int) -> None:
    case = random_case(1, length, 20 if length < 100_000 else 4)
    assert_close(run(kernels, case), truth(case), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("ramp", RAMPS)
@pytest.mark.parametrize("fresh", [True, False])
def test_keys_over_the_whole_range_of_exponents(gpu: Gpu, ramp: str, fresh: bool) -> None:
    case = random_case(1, 700, 10, fresh=fresh)
    case = case._replace(k=RAMPS[ramp](700)[None, :, None].expand_as(case.k).contiguous())
    assert_close(run(kernels, case), truth(case), 1e-5)


@pytest.mark.parametrize("decay", [-1e-30, slow(-80.0), slow(-1e5), -torch.inf])
@pytest.mark.parametrize("ramp", ["rising", slow("falling")])
def test_any_decay(gpu: Gpu, decay: float, ramp: str) -> None:
    case = random_case(1, 300, 17)
    k = RAMPS[ramp](300)[None, :, None] / 4 + case.k
    case = case._replace(k=k, w=torch.full_like(case.w, decay))
    assert_close(run(kernels, case), truth(case), 1e-5)


@pytest.mark.parametrize("bonus", [-100.0, slow(16.0), 100.0])
def test_any_bonus(gpu: Gpu, bonus: float) -> None:
    case = random_case(1, 100, 4)
    case = case._replace(u=torch.full_like(case.u, bonus))
    assert_close(run(kernels, case), truth(case), 1e-5)


@pytest.mark.parametrize("capability", [(9, 0), slow((7, 5))])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_computed_in_float32(
    gpu: Gpu, dtype: torch.dtype, capability: tuple[int, int]
) -> None:
    gpu.capability = capability
    case = in_dtype(random_case(2, 300, 37), dtype)
    wrong = errors(run(kernels, case), truth(case))
    rounding = torch.finfo(dtype).eps
    limits = dict.fromkeys(NAMES, 1e-5) | dict.fromkeys(("y", "k", "v"), rounding)
    assert all(wrong[name] <= limits[name] for name in NAMES), wrong


def test_a_decay_that_does_not_decay_is_nan_in_its_channel(gpu: Gpu) -> None:
    w, u, k, v, state = random_case(1, 40, 6)[:5]
    clean = cuda.wkv4_forward(w, u, k, v, state, False)[0]
    w[3] = 0.0
    y = cuda.wkv4_forward(w, u, k, v, state, False)[0]
    assert y[0, 1:, 3].isnan().all()
    others = [c for c in range(6) if c != 3]
    assert torch.equal(y[..., others], clean[..., others])


@pytest.mark.parametrize("dtype", [torch.float32, slow(torch.bfloat16)])
def test_tensors_can_begin_anywhere_in_memory(gpu: Gpu, dtype: torch.dtype) -> None:
    case = in_dtype(random_case(1, 70, 64), dtype)
    want = run(kernels, case)
    for way in (moved, turned):
        got = run(lambda *x, way=way: kernels(*map(way, x)), case)
        assert all(torch.equal(got[name], want[name]) for name in NAMES)


def test_the_order_of_blocks_and_threads_does_not_show(gpu: Gpu) -> None:
    case, results = random_case(2, 1300, 5), []
    for gpu.seed, gpu.resident in ((0, 1), (1, 4), (2, 2), (3, 7)):
        results.append(run(kernels, case))
    assert all(torch.equal(results[0][name], x[name]) for x in results[1:] for name in NAMES)


@pytest.mark.parametrize("seed", [2, slow(0), slow(1), slow(3)])
@pytest.mark.parametrize("dtype", [torch.float32, slow(torch.bfloat16), slow(torch.float16)])
def test_no_thread_races_with_another(gpu: Gpu, dtype: torch.dtype, seed: int) -> None:
    gpu.sanitized, gpu.seed = True, seed
    case = in_dtype(random_case(1, 520, 3), dtype)
    got = run(kernels, case)
    if dtype == torch.float32:
        assert_close(got, truth(case), 1e-5)


@pytest.mark.slow
def test_no_thread_races_over_many_groups(gpu: Gpu) -> None:
    gpu.sanitized = True
    case = random_case(1, SEGMENT * GROUP * 2 + 300, 3)
    assert_close(run(kernels, case), truth(case), 1e-5)
