"""The C++ kernels against fp64, with every output poisoned beforehand."""

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from models.ops.wkv import wkv7
from models.ops.wkv7 import cpu
from models.ops.wkv7.reference import wkv7_sequential
from tests.models.ops.closeness import assert_close, errors
from tests.models.ops.native import skip_without
from tests.models.ops.wkv7.cases import FLOOR, KINDS, NAMES, Case, decays, random_case, run

pytestmark = skip_without(cpu.library)
native = functools.partial(wkv7, backend="cpu")
chunked = functools.partial(wkv7, backend="reference")


def truth(case: Case) -> dict[str, Tensor]:
    return run(wkv7_sequential, case, torch.float64)


@pytest.mark.parametrize("size", [1, 4, 8, 16, 20, 64, 100])
@pytest.mark.parametrize("length", [1, 2, 16, 17, 32, 33, 70])
def test_agrees_with_float64(size: int, length: int) -> None:
    case = random_case(2, length, 2, size, seed=length, fresh=length % 2 == 0)
    assert_close(run(native, case), truth(case), 2e-6)


@pytest.mark.parametrize("size", [128, 256])
def test_large_heads(size: int) -> None:
    case = random_case(1, 45, 2, size)
    assert_close(run(native, case), truth(case), 2e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [20, 64])
def test_any_decay(kind: str, size: int) -> None:
    case = random_case(2, 70, 2, size)
    if kind != "floor":  # products of long chains of removals at full strength may grow there
        case = case._replace(a=case.a / 2)
    case = case._replace(w=decays(kind, case.w))
    want = truth(case._replace(w=case.w.clamp(min=-1e4)))
    # Where every state dies at once the gradients of w are zero, and what is left is rounding.
    assert_close(run(native, case), want, 2e-6 if kind in ("none", "floor") else 1e-5)


@pytest.mark.parametrize("rate", ["zero", "one"])
@pytest.mark.parametrize("w", [0.0, FLOOR])
def test_rates_at_their_ends(rate: str, w: float) -> None:
    case = random_case(1, 200, 2, 64)
    b = -case.a if rate == "one" else torch.zeros_like(case.b)
    case = case._replace(b=b, w=torch.full_like(case.w, w))
    assert_close(run(native, case), truth(case), 2e-6)


def test_ten_thousand_tokens() -> None:
    case = random_case(1, 10_007, 1, 16, fresh=True)
    case = case._replace(w=case.w * 0.01)
    assert_close(run(native, case), run(chunked, case, torch.float64), 1e-5)


@pytest.mark.parametrize("length", [1, 5, 7, 8, 40])
def test_without_gradients_the_outputs_are_the_same(length: int) -> None:
    case = random_case(2, length, 3, 20)
    want = truth(case)
    with torch.no_grad():
        y, state = native(*case.inputs)
    assert_close(want | {"y": y, "state": state}, want, 2e-6)


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("shape", [(1, 2500, 1, 32), (1, 130, 3, 64), (3, 100, 1, 20)])
def test_results_do_not_depend_on_the_number_of_threads(
    threads: Callable[[int], None], count: int, shape: tuple[int, ...]
) -> None:
    case = random_case(*shape)
    one = run(native, case)
    threads(count)
    many = run(native, case)
    assert all(torch.equal(one[name], many[name]) for name in NAMES)


def test_sweeps_over_time_are_exact(threads: Callable[[int], None]) -> None:
    case = random_case(1, 2500, 1, 32)
    threads(2)
    assert_close(run(native, case), run(chunked, case, torch.float64), 2e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [20, 64])
def test_half_precision_inputs_are_computed_in_float32(dtype: torch.dtype, size: int) -> None:
    case = random_case(2, 70, 2, size)
    half = {name: getattr(case, name).to(dtype) for name in (*"rkvab", "grad_y")}
    case = case._replace(**half)
    wrong = errors(run(native, case), truth(case))
    rounding = torch.finfo(dtype).eps  # y, gr, gk, gv, ga, gb are rounded once, when stored
    limits = dict.fromkeys(NAMES, rounding) | dict.fromkeys(("state", "w", "state_in"), 2e-6)
    assert all(wrong[name] <= limits[name] for name in NAMES), wrong


def test_nan_stays_in_its_head_forward_and_backward() -> None:
    case = random_case(2, 120, 3, 20)
    case.k[1, 50, 2, 3] = torch.nan
    inputs = [x.clone().requires_grad_() for x in case.inputs]
    outputs = native(*inputs)
    grads = torch.autograd.grad(outputs, inputs, (case.grad_y, case.grad_state))
    for x in (*outputs, *grads):
        head = x.dim() - 2 if x.shape[1] == 120 else 1
        rest = torch.ones(2, 3, dtype=torch.bool)
        rest[1, 2] = False
        assert x.movedim(head, 1)[rest].isfinite().all()
    assert outputs[0][1, 50:, 2].isnan().all() and outputs[0][1, :48, 2].isfinite().all()


def test_the_callers_rounding_mode_is_left_alone() -> None:
    native(*random_case(1, 64, 1, 16).inputs)
    assert (torch.tensor([1e-40]) * 1.0).item() > 0
