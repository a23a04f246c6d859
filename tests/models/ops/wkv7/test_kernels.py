"""The GPU kernels as they are, launched as on a GPU, on emulated threads, against fp64.

What this leaves open is what only a GPU can show: its own arithmetic, and speed.
"""

import functools

import pytest
import torch
from torch import Tensor

from core.errors import UserError
from models.ops.wkv import wkv7
from models.ops.wkv7 import cuda
from models.ops.wkv7.reference import CHUNK, wkv7_sequential
from tests.emulator.driver import Gpu
from tests.models.ops.closeness import assert_close, errors, moved, turned
from tests.models.ops.wkv7.cases import FLOOR, NAMES, Case, random_case, run

BF16 = 1e-2  # largest error over largest value; the operands of every product have 8 bits
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LIMITS = {torch.float32: 1e-5, torch.bfloat16: BF16, torch.float16: 2e-3}
kernels = functools.partial(wkv7, backend="cuda")
slow = functools.partial(pytest.param, marks=pytest.mark.slow)


def truth(case: Case) -> dict[str, Tensor]:
    return run(wkv7_sequential, case, torch.float64)


def in_dtype(case: Case, dtype: torch.dtype) -> Case:
    half = {name: getattr(case, name).to(dtype) for name in ("r", "k", "v", "a", "b", "grad_y")}
    return case._replace(**half)


@pytest.mark.parametrize("length", [1, 5, 32, 33, slow(100)])
def test_float32_agrees_with_float64(gpu: Gpu, length: int) -> None:
    gpu.seed = length
    case = random_case(2, length, 2, 64, seed=length, fresh=length % 2 == 0)
    assert_close(run(kernels, case), truth(case), 1e-5)
    names = ["wkv7_forward_float32", "wkv7_backward_float32"]
    assert [one.kernel for one in gpu.launches] == names


@pytest.mark.parametrize("length", [1, 5, 32, 33, slow(300)])
def test_bfloat16_is_as_exact_as_its_operands(gpu: Gpu, length: int) -> None:
    gpu.seed = length
    case = in_dtype(random_case(2, length, 2, 64, seed=length), torch.bfloat16)
    assert_close(run(kernels, case), truth(case), BF16)


def test_float16_is_exact_but_for_its_own_rounding(gpu: Gpu) -> None:
    case = in_dtype(random_case(1, 70, 1, 64), torch.float16)
    wrong = errors(run(kernels, case), truth(case))
    limits = dict.fromkeys(NAMES, torch.finfo(torch.float16).eps)
    limits |= dict.fromkeys(("state", "w", "state_in"), 3e-5)
    assert all(wrong[name] <= limits[name] for name in NAMES), wrong


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("decay", [0.0, -1e-3, FLOOR])
def test_decays_at_the_ends_of_their_range(gpu: Gpu, dtype: torch.dtype, decay: float) -> None:
    case = in_dtype(random_case(1, 100, 1, 64), dtype)
    case = case._replace(w=torch.full_like(case.w, decay))
    assert_close(run(kernels, case), truth(case), LIMITS[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("decay", [-3.0, slow(-20.0), slow(-200.0), -torch.inf])
def test_stronger_decays_cut_chunks_into_pieces(gpu: Gpu, dtype: torch.dtype, decay: float) -> None:
    case = in_dtype(random_case(1, 45, 1, 64), dtype)
    case.w[:, ::2] = decay
    case.w[:, 7:9, :, :3] = decay
    # The gradient of w is a small difference here, of terms as large as the others.
    assert_close(run(kernels, case), truth(case), 2 * LIMITS[dtype])


def test_one_strong_decay_in_one_channel(gpu: Gpu) -> None:
    case = random_case(1, 64, 1, 64)
    case.w[0, 40, 0, 13] = -1e4
    assert_close(run(kernels, case), truth(case), 1e-5)


@pytest.mark.parametrize(
    "dtype, heads", [(torch.bfloat16, 1), slow(torch.bfloat16, 3), slow(torch.float32, 1)]
)
def test_many_segments(gpu: Gpu, dtype: torch.dtype, heads: int) -> None:
    gpu.multiprocessors = 6 * heads
    case = in_dtype(random_case(1, 4 * 8 * CHUNK + 45, heads, 64), dtype)
    assert_close(run(kernels, case), truth(case), LIMITS[dtype])
    cut = {one.kernel: one.grid[1] for one in gpu.launches}
    assert cut[f"wkv7_forward_{str(dtype)[6:]}"] >= 4 <= cut[f"wkv7_backward_{str(dtype)[6:]}"]


@pytest.mark.slow
def test_segments_with_strong_decays(gpu: Gpu) -> None:
    gpu.multiprocessors = 8
    case = random_case(1, 4 * 8 * CHUNK, 1, 64)
    case.w[:, ::100] = -50
    assert_close(run(kernels, case), truth(case), 1e-5)


@pytest.mark.parametrize("size", [16, slow(32)])
def test_smaller_heads_are_filled_up(gpu: Gpu, size: int) -> None:
    case = random_case(2, 40, 2, size)
    assert_close(run(kernels, case), truth(case), 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, slow(torch.bfloat16)])
def test_tensors_can_begin_anywhere_in_memory(gpu: Gpu, dtype: torch.dtype) -> None:
    case = in_dtype(random_case(2, 20, 1, 64), dtype)
    want = run(kernels, case)
    for way in (moved, turned):
        got = run(lambda *x, way=way: kernels(*map(way, x)), case)
        assert all(torch.equal(got[name], want[name]) for name in NAMES)


def test_heads_are_refused_that_are_too_large(gpu: Gpu) -> None:
    with pytest.raises(UserError, match="up to 256, not 272"):
        kernels(*random_case(1, 2, 1, 272).inputs)


# Kilobytes of shared memory of a multiprocessor and of a block, as NVIDIA gives them.
MEMORY = {"A100": (164, 163), "RTX 4090": (100, 99), "L40S": (100, 99), "H100": (228, 227)}
RESIDENT = {  # forward and backward, bf16 and then fp32
    "A100": (3, 1, 1, 1),
    "RTX 4090": (2, 1, 1, 0),
    "L40S": (2, 1, 1, 0),
    "H100": (4, 2, 2, 1),
}


@pytest.mark.parametrize("name", MEMORY)
def test_blocks_are_planned_by_the_memory_of_the_gpu(gpu: Gpu, name: str) -> None:
    """0 is a backward pass that goes token by token."""
    gpu.shared_of_multiprocessor, gpu.shared_of_block = (one << 10 for one in MEMORY[name])
    machine = cuda._Machine.of(torch.device("cpu"))
    plans = [table[width] for width in (2, 4) for table in (cuda._FORWARD, cuda._BACKWARD)]
    resident = [machine.resident(x) * (x.shared <= machine.most_shared) for x in plans]
    assert tuple(resident) == RESIDENT[name]


def test_a_nan_stays_in_its_head(gpu: Gpu) -> None:
    case = in_dtype(random_case(2, 70, 2, 64), torch.bfloat16)
    clean = kernels(*case.inputs)[0]
    case.w[0, 40, 1, 3] = torch.nan
    y = kernels(*case.inputs)[0]
    assert y[0, 41:, 1].isnan().all()
    assert torch.equal(y[1], clean[1]) and torch.equal(y[0, :, 0], clean[0, :, 0])


@pytest.mark.parametrize("dtype", [slow(torch.float32), torch.bfloat16, slow(torch.float16)])
def test_the_order_of_blocks_and_threads_does_not_show(gpu: Gpu, dtype: torch.dtype) -> None:
    gpu.multiprocessors = 6
    case, results = in_dtype(random_case(1, 600, 1, 64), dtype), []
    case.w[:, 50] = -70
    for gpu.seed, gpu.resident in ((0, 1), (1, 4), (2, 2), (3, 7)):
        results.append(run(kernels, case))
    assert all(torch.equal(results[0][name], x[name]) for x in results[1:] for name in NAMES)


@pytest.mark.parametrize("dtype", [slow(torch.float32), torch.bfloat16, slow(torch.float16)])
@pytest.mark.parametrize("length", [70, slow(550)])
def test_no_thread_races_with_another(gpu: Gpu, dtype: torch.dtype, length: int) -> None:
    gpu.sanitized = True
    case = in_dtype(random_case(1, length, 1, 64), dtype)
    case.w[:, 50] = -70
    assert_close(run(kernels, case), truth(case), 2 * LIMITS[dtype])
