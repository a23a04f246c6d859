"""The GPU kernels, run on the CPU one warp after the other, against fp64.

Tensor cores are emulated from the layout and the rounding their manual gives. What this leaves open
is what only a GPU can show: its own arithmetic, and speed.
"""

import ctypes
import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from core.errors import UserError
from models.ops import backends, build
from models.ops.build import BuildError
from models.ops.wkv import wkv7
from models.ops.wkv7 import cuda
from models.ops.wkv7.reference import CHUNK, wkv7_sequential
from tests.models.ops.closeness import assert_close, errors
from tests.models.ops.wkv7.cases import FLOOR, NAMES, Case, Operator, random_case, run

BF16 = 1e-2  # largest error over largest value; the operands of every product have 8 bits

try:
    library = ctypes.CDLL(
        str(build.shared_library("chunk", ["wkv7/emulate.cpp"], [*cuda.library.headers]))
    )
except BuildError as error:
    pytest.skip(str(error), allow_module_level=True)


def launch(
    name: str,
    device: torch.device,
    grid: tuple[int, ...],
    block: tuple[int, ...],
    *arguments: Tensor | int,
    shared_bytes: int = 0,
) -> None:
    """In place of `CudaLibrary.launch`."""
    values = [
        ctypes.c_void_p(x.data_ptr()) if isinstance(x, torch.Tensor) else x for x in arguments
    ]
    values = [ctypes.c_int64(x) if isinstance(x, int) else x for x in values]
    getattr(library, name)(*map(ctypes.c_int64, (*grid, 1, 1)[:3]), *values)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets the number of multiprocessors of the emulated GPU."""

    def multiprocessors(count: int) -> None:
        monkeypatch.setattr(cuda, "_machine", lambda device: (count, 1 << 20))

    multiprocessors(1)
    return multiprocessors


@pytest.fixture
def scan(monkeypatch: pytest.MonkeyPatch, machine: Callable[[int], None]) -> Operator:
    """wkv7 through the whole operator, with the emulated kernels under it."""
    monkeypatch.setattr(cuda.library, "launch", launch)
    monkeypatch.setattr(
        backends, "kernels", lambda _, backend, *__: None if backend == "reference" else cuda
    )
    return functools.partial(wkv7, backend="cuda")


def truth(case: Case) -> dict[str, Tensor]:
    return run(wkv7_sequential, case, torch.float64)


def in_dtype(case: Case, dtype: torch.dtype) -> Case:
    half = {name: getattr(case, name).to(dtype) for name in ("r", "k", "v", "a", "b", "grad_y")}
    return case._replace(**half)


def filled(x: Tensor, value: float) -> Tensor:
    return torch.full_like(x, value)


@pytest.mark.parametrize("length", [1, 5, 32, 33, 100])
def test_float32_agrees_with_float64(scan: Operator, length: int) -> None:
    case = random_case(2, length, 2, 64, seed=length, fresh=length % 2 == 0)
    assert_close(run(scan, case), truth(case), 1e-5)


@pytest.mark.parametrize("length", [1, 5, 32, 33, 300])
def test_bfloat16_is_as_exact_as_its_operands(scan: Operator, length: int) -> None:
    case = in_dtype(random_case(2, length, 2, 64, seed=length), torch.bfloat16)
    assert_close(run(scan, case), truth(case), BF16)


def test_float16_is_exact_but_for_its_own_rounding(scan: Operator) -> None:
    case = in_dtype(random_case(1, 100, 2, 64), torch.float16)
    wrong = errors(run(scan, case), truth(case))
    limits = dict.fromkeys(NAMES, torch.finfo(torch.float16).eps)
    limits |= dict.fromkeys(("state", "w", "state_in"), 3e-5)
    assert all(wrong[name] <= limits[name] for name in NAMES), wrong


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("decay", [0.0, -1e-3, FLOOR])
def test_decays_at_the_ends_of_their_range(
    scan: Operator, dtype: torch.dtype, decay: float
) -> None:
    case = in_dtype(random_case(1, 100, 1, 64), dtype)
    case = case._replace(w=filled(case.w, decay))
    assert_close(run(scan, case), truth(case), 1e-5 if dtype == torch.float32 else BF16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("decay", [-3.0, -20.0, -200.0, -torch.inf])
def test_stronger_decays_cut_chunks_into_pieces(
    scan: Operator, dtype: torch.dtype, decay: float
) -> None:
    case = in_dtype(random_case(1, 45, 1, 64), dtype)
    case.w[:, ::2] = decay
    case.w[:, 7:9, :, :3] = decay
    # The gradient of w is a small difference here, of terms as large as the others.
    assert_close(run(scan, case), truth(case), 2e-5 if dtype == torch.float32 else 2 * BF16)


def test_one_strong_decay_in_one_channel(scan: Operator) -> None:
    case = random_case(1, 64, 1, 64)
    case.w[0, 40, 0, 13] = -1e4
    assert_close(run(scan, case), truth(case), 1e-5)


@pytest.mark.parametrize("dtype, heads", [(torch.float32, 1), (torch.bfloat16, 3)])
def test_many_segments(
    scan: Operator, machine: Callable[[int], None], dtype: torch.dtype, heads: int
) -> None:
    machine(6 * heads)
    case = in_dtype(random_case(1, 4 * 8 * CHUNK + 45, heads, 64), dtype)
    forward, backward = (cuda._Grid.of(case.r, x) for x in (cuda._FORWARD, cuda._BACKWARD))
    assert min(forward.segments, backward.segments) >= 4
    assert_close(run(scan, case), truth(case), 1e-5 if dtype == torch.float32 else BF16)


def test_segments_with_strong_decays(scan: Operator, machine: Callable[[int], None]) -> None:
    machine(8)
    case = random_case(1, 4 * 8 * CHUNK, 1, 64)
    case.w[:, ::100] = -50
    assert_close(run(scan, case), truth(case), 1e-5)


@pytest.mark.parametrize("size", [16, 32])
def test_smaller_heads_are_filled_up(scan: Operator, size: int) -> None:
    case = random_case(2, 40, 2, size)
    assert_close(run(scan, case), truth(case), 1e-5)


def test_the_last_token_can_be_anywhere_in_memory(scan: Operator) -> None:
    case = random_case(1, 20, 1, 64)
    moved = torch.zeros(case.k.numel() + 1)[1:].view_as(case.k).copy_(case.k)
    assert moved.data_ptr() % 16
    assert_close(run(scan, case._replace(k=moved)), truth(case), 1e-5)


def test_heads_are_refused_that_are_too_large(scan: Operator) -> None:
    with pytest.raises(UserError, match="up to 64, not 80"):
        scan(*random_case(1, 2, 1, 80).inputs)


def test_where_shared_memory_is_too_little_the_backward_pass_is_the_references(
    scan: Operator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cuda, "_machine", lambda device: (1, 99 << 10))
    cuda._notice.cache_clear()
    case = random_case(1, 40, 1, 64)
    assert_close(run(scan, case), truth(case), 1e-5)
    assert "runs in PyTorch" in caplog.text


def test_a_nan_stays_in_its_head(scan: Operator) -> None:
    case = in_dtype(random_case(2, 70, 2, 64), torch.bfloat16)
    clean = scan(*case.inputs)[0]
    case.w[0, 40, 1, 3] = torch.nan
    y = scan(*case.inputs)[0]
    assert y[0, 41:, 1].isnan().all()
    assert torch.equal(y[1], clean[1]) and torch.equal(y[0, :, 0], clean[0, :, 0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_order_of_warps_between_barriers_does_not_matter(
    scan: Operator, machine: Callable[[int], None], dtype: torch.dtype
) -> None:
    case = in_dtype(random_case(1, 70, 1, 64), dtype)
    case.w[:, 50] = -70
    first = run(scan, case)
    library.wkv7_reverse(ctypes.c_int64(1))
    try:
        second = run(scan, case)
    finally:
        library.wkv7_reverse(ctypes.c_int64(0))
    assert all(torch.equal(first[name], second[name]) for name in NAMES)


@pytest.mark.parametrize("dtype, width", [("bfloat16", 2), ("float16", 4), ("float32", 4)])
def test_shared_memory_is_what_the_structs_take(dtype: str, width: int) -> None:
    for name, plan in (("forward", cuda._FORWARD), ("backward", cuda._BACKWARD)):
        assert getattr(library, f"wkv7_{name}_shared_{dtype}")() == plan[width].shared
