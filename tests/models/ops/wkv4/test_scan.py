"""The GPU scan, run on the CPU one thread after the other, against fp64.

What this leaves open is what only a GPU can show: memory order between blocks, and speed.
"""

import ctypes
import functools
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from models.ops import backends, build
from models.ops.build import BuildError
from models.ops.wkv import wkv4
from models.ops.wkv4 import cuda
from models.ops.wkv4.reference import CHUNK
from tests.models.ops.closeness import assert_close, errors
from tests.models.ops.wkv4.cases import NAMES, Case, Operator, random_case, run
from tests.models.ops.wkv4.test_cpu import RAMPS

SEGMENT, GROUP = 256, 16  # of cuda/wkv4/lookback.h
chunked = functools.partial(wkv4, backend="reference")


def emulator() -> ctypes.CDLL:
    headers = [*cuda.library.headers]
    return ctypes.CDLL(str(build.shared_library("scan", ["wkv4/emulate.cpp"], headers)))


try:
    library = emulator()
except BuildError as error:
    pytest.skip(str(error), allow_module_level=True)


def call(name: str, k: Tensor, *tensors: Tensor | None) -> None:
    function = getattr(library, f"{name}_{str(k.dtype).removeprefix('torch.')}")
    pointers = [None if x is None else ctypes.c_void_p(x.data_ptr()) for x in tensors]
    assert function(*map(ctypes.c_int64, k.shape), *pointers) == 0, "blocks waited for ever"


def forward(
    w: Tensor, u: Tensor, k: Tensor, v: Tensor, state: Tensor, save: bool
) -> tuple[Tensor, Tensor, Tensor]:
    w, u, k, v, state = (x.contiguous() for x in (w, u, k, v, state))
    y, out = torch.empty_like(v), torch.empty_like(state)
    tiles = -(-k.shape[1] // CHUNK) if save else 0
    checkpoints = torch.empty(k.shape[0], tiles, 3, k.shape[2])
    call("wkv4_forward", k, w, u, k, v, state, y, out, checkpoints if save else None)
    return y, out, checkpoints


def backward(
    w: Tensor, u: Tensor, k: Tensor, v: Tensor, checkpoints: Tensor, adjoint: Tensor, grad_y: Tensor
) -> tuple[Tensor, ...]:
    inputs = [x.contiguous() for x in (w, u, k, v, checkpoints, adjoint, grad_y.to(v.dtype))]
    partial = torch.empty(k.shape[0], -(-k.shape[1] // SEGMENT), 2, k.shape[2])
    gk, gv, before = torch.empty_like(k), torch.empty_like(v), torch.empty_like(adjoint)
    call("wkv4_backward", k, *inputs, partial, gk, gv, before)
    gw, gu = partial.double().sum((0, 1)).float()
    return gw, gu, gk, gv, before


@pytest.fixture
def scan(monkeypatch: pytest.MonkeyPatch) -> Operator:
    """wkv4 through the whole operator, with the emulated kernels under it."""
    kernels = SimpleNamespace(wkv4_forward=forward, wkv4_backward=backward)
    monkeypatch.setattr(
        backends, "kernels", lambda _, backend, *__: None if backend == "reference" else kernels
    )
    return functools.partial(wkv4, backend="cuda")


def truth(case: Case) -> dict[str, Tensor]:
    return run(chunked, case, torch.float64)


@pytest.mark.parametrize("channels", [1, 2, 63, 64, 65, 130])
@pytest.mark.parametrize("length", [1, 3, 33, 256, 300])
def test_agrees_with_float64(scan: Operator, channels: int, length: int) -> None:
    case = random_case(2, length, channels, seed=length, fresh=length % 2 == 0)
    assert_close(run(scan, case), truth(case), 1e-5)


@pytest.mark.parametrize("length", [SEGMENT * GROUP, SEGMENT * GROUP + 1, SEGMENT * GROUP * 3 - 5])
def test_many_segments_and_groups(scan: Operator, length: int) -> None:
    case = random_case(2, length, 20)
    assert_close(run(scan, case), truth(case), 1e-5)


@pytest.mark.parametrize("ramp", RAMPS)
@pytest.mark.parametrize("fresh", [True, False])
def test_keys_over_the_whole_range_of_exponents(scan: Operator, ramp: str, fresh: bool) -> None:
    case = random_case(1, 700, 10, fresh=fresh)
    case = case._replace(k=RAMPS[ramp](700)[None, :, None].expand_as(case.k).contiguous())
    assert_close(run(scan, case), truth(case), 1e-5)


@pytest.mark.parametrize("decay", [-1e-30, -80.0, -1e5, -torch.inf])
@pytest.mark.parametrize("ramp", ["rising", "falling"])
def test_any_decay(scan: Operator, decay: float, ramp: str) -> None:
    case = random_case(1, 300, 17)
    k = RAMPS[ramp](300)[None, :, None] / 4 + case.k
    case = case._replace(k=k, w=torch.full_like(case.w, decay))
    assert_close(run(scan, case), truth(case), 1e-5)


@pytest.mark.parametrize("bonus", [-100.0, 16.0, 100.0])
def test_any_bonus(scan: Operator, bonus: float) -> None:
    case = random_case(1, 100, 4)
    case = case._replace(u=torch.full_like(case.u, bonus))
    assert_close(run(scan, case), truth(case), 1e-5)


def test_a_hundred_thousand_tokens(scan: Operator) -> None:
    case = random_case(1, 100_003, 4, fresh=True)
    assert_close(run(scan, case), truth(case), 1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_computed_in_float32(scan: Operator, dtype: torch.dtype) -> None:
    case = random_case(2, 300, 37)
    case = case._replace(k=case.k.to(dtype), v=case.v.to(dtype), grad_y=case.grad_y.to(dtype))
    wrong = errors(run(scan, case), truth(case))
    rounding = torch.finfo(dtype).eps
    limits = dict.fromkeys(NAMES, 1e-5) | dict.fromkeys(("y", "k", "v"), rounding)
    assert all(wrong[name] <= limits[name] for name in NAMES), wrong


def test_a_decay_that_does_not_decay_is_nan_in_its_channel() -> None:
    w, u, k, v, state = random_case(1, 40, 6)[:5]
    clean = forward(w, u, k, v, state, False)[0]
    w[3] = 0.0
    y = forward(w, u, k, v, state, False)[0]
    assert y[0, 1:, 3].isnan().all()
    others = [c for c in range(6) if c != 3]
    assert torch.equal(y[..., others], clean[..., others])
