"""The C++ kernels against fp64, with every output poisoned beforehand."""

import functools
from collections.abc import Callable

import pytest
import torch

from models.ops.wkv import wkv4
from models.ops.wkv4 import cpu, reference
from tests.models.ops.closeness import assert_close, errors
from tests.models.ops.native import skip_without
from tests.models.ops.wkv4.cases import NAMES, Case, random_case, run

pytestmark = skip_without(cpu.library)
native = functools.partial(wkv4, backend="cpu")
chunked = functools.partial(wkv4, backend="reference")


def check(case: Case, tolerance: float = 1e-5) -> None:
    assert_close(run(native, case), run(chunked, case, torch.float64), tolerance)


@pytest.mark.parametrize("channels", [1, 7, 16, 17, 64, 100])
@pytest.mark.parametrize("length", [1, 2, 32, 33, 150])
@pytest.mark.parametrize("fresh", [True, False])
def test_agrees_with_float64(channels: int, length: int, fresh: bool) -> None:
    check(random_case(3, length, channels, seed=length, fresh=fresh))


RAMPS = {
    "rising": lambda T: torch.linspace(-100, 100, T),
    "falling": lambda T: torch.linspace(100, -100, T),
    "equal": lambda T: torch.full((T,), 0.7),
    "equal and large": lambda T: torch.full((T,), 80.0),
    "jumping": lambda T: 90.0 * torch.arange(T).div(40, rounding_mode="floor").remainder(3).sub(1),
    "alternating": lambda T: 45.0 * torch.arange(T).remainder(2),
}


@pytest.mark.parametrize("ramp", RAMPS)
@pytest.mark.parametrize("length", [40, 1000])
@pytest.mark.parametrize("fresh", [True, False])
def test_keys_over_the_whole_range_of_exponents(ramp: str, length: int, fresh: bool) -> None:
    case = random_case(2, length, 20, fresh=fresh)
    check(case._replace(k=RAMPS[ramp](length)[None, :, None].expand_as(case.k).contiguous()))


@pytest.mark.parametrize("decay", [-1e-30, -80.0, -1e5, -torch.inf])
@pytest.mark.parametrize("ramp", ["rising", "falling"])
def test_any_decay(decay: float, ramp: str) -> None:
    case = random_case(1, 300, 17)
    k = RAMPS[ramp](300)[None, :, None] / 4 + case.k
    case = case._replace(k=k, w=torch.full_like(case.w, decay))
    check(case)


@pytest.mark.parametrize("bonus", [-100.0, -16.0, 14.0, 16.0, 100.0])
def test_any_bonus(bonus: float) -> None:
    case = random_case(1, 100, 17)
    check(case._replace(u=torch.full_like(case.u, bonus)))


def test_a_hundred_thousand_tokens() -> None:
    check(random_case(1, 100_003, 6, fresh=True))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_any_number_of_threads_and_time_segments(
    threads: Callable[[int], None], count: int
) -> None:
    for shape in ((1, 5000, 16), (1, 3001, 40), (3, 700, 70)):
        case = random_case(*shape)
        true = run(chunked, case, torch.float64)
        threads(count)
        assert_close(run(native, case), true, 1e-5)
        threads(1)


def test_outputs_too_large_for_the_cache() -> None:
    case = random_case(1, 16_400, 512)
    few = slice(0, 24)
    part = [x[..., few] for x in case]
    got = {name: x[..., few] for name, x in run(native, case).items()}
    assert_close(got, run(chunked, type(case)(*part), torch.float64), 1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_computed_in_float32(dtype: torch.dtype) -> None:
    case = random_case(2, 140, 37)
    case = case._replace(k=case.k.to(dtype), v=case.v.to(dtype), grad_y=case.grad_y.to(dtype))
    got, want = run(native, case), run(chunked, case, torch.float64)
    wrong = errors(got, want)
    rounding = torch.finfo(dtype).eps  # y, gk and gv are rounded once when they are stored
    limits = dict.fromkeys(NAMES, 1e-5) | dict.fromkeys(("y", "k", "v"), rounding)
    assert all(wrong[name] <= limits[name] for name in NAMES), wrong


def test_gradients_are_deterministic(threads: Callable[[int], None]) -> None:
    threads(2)
    case = random_case(2, 3000, 33)
    first, second = run(native, case), run(native, case)
    assert all(torch.equal(first[name], second[name]) for name in NAMES)


def test_a_state_carries_its_running_maximum() -> None:
    case = random_case(2, 300, 20)
    _, out = native(*case[:5])
    _, true = reference.wkv4_sequential(*case[:5])
    torch.testing.assert_close(out, true, rtol=2e-5, atol=2e-5)


def test_nan_stays_in_its_channel_forward_and_backward() -> None:
    case = random_case(2, 120, 40)
    clean = run(native, case)
    case.k[1, 50, 3] = torch.nan
    inputs = [x.clone().requires_grad_() for x in case[:5]]
    y, out = native(*inputs)
    grads = torch.autograd.grad((y, out), inputs, (case.grad_y, torch.zeros_like(out)))
    assert y[1, 50:, 3].isnan().all() and y.isnan().sum() == 70
    for name, grad in zip(("w", "u", "k", "v"), grads, strict=False):
        others = [c for c in range(40) if c != 3]
        assert grad[..., others].isfinite().all(), name
    assert torch.equal(grads[2][0, :, 3].isfinite(), torch.ones(120, dtype=torch.bool))
    assert clean["y"].isfinite().all()


def test_minus_infinity_is_a_key_without_weight() -> None:
    w, u, k, v, state = random_case(1, 90, 18)[:5]
    k[:, 30:60] = -torch.inf
    y, _ = native(w, u, k, v, state)
    true, _ = chunked(*(x.double() for x in (w, u, k, v, state)))
    torch.testing.assert_close(y, true.float(), rtol=1e-5, atol=1e-5)


def test_the_callers_rounding_mode_is_left_alone() -> None:
    native(*random_case(1, 64, 16)[:5])
    assert (torch.tensor([1e-40]) * 1.0).item() > 0
