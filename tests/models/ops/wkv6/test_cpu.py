"""The C++ kernels against fp64, with every output poisoned beforehand."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from core.errors import UserError
from models.ops.wkv import wkv5, wkv6
from models.ops.wkv6 import cpu
from tests.models.ops.closeness import assert_close, errors
from tests.models.ops.native import skip_without
from tests.models.ops.wkv6.cases import NAMES, Case, random_case, run, slow_case

pytestmark = skip_without(cpu.library)


def native(
    r: Tensor, w: Tensor, k: Tensor, v: Tensor, u: Tensor, state: Tensor, backend: str = "cpu"
) -> tuple[Tensor, Tensor]:
    return (wkv6 if w.dim() == 4 else wkv5)(r, w, k, v, u, state, backend=backend)


def chunked(*args: Tensor) -> tuple[Tensor, Tensor]:
    return native(*args, backend="reference")


def check(case: Case, tolerance: float = 2e-6) -> None:
    assert_close(run(native, case), run(chunked, case, torch.float64), tolerance)


@pytest.mark.parametrize("size", [1, 4, 7, 16, 33, 64, 100])
@pytest.mark.parametrize("length", [1, 2, 32, 33, 150])
@pytest.mark.parametrize("constant", [True, False])
def test_agrees_with_float64(size: int, length: int, constant: bool) -> None:
    check(random_case(2, length, 3, size, seed=length, constant=constant))


@pytest.mark.parametrize("constant", [True, False])
def test_from_the_initial_state(constant: bool) -> None:
    check(random_case(2, 70, 2, 64, fresh=True, constant=constant))


@pytest.mark.parametrize("decay", [0.0, -0.0, -1e-7, -1e-3, -0.34, -20.0, -87.0, -1e30, -torch.inf])
@pytest.mark.parametrize("constant", [True, False])
def test_any_decay(decay: float, constant: bool) -> None:
    case = random_case(1, 500, 1, 20, constant=constant)
    check(case._replace(w=torch.full_like(case.w, decay)), 5e-6)


@pytest.mark.parametrize("decay", [-1e30, -torch.inf])
def test_a_decay_to_nothing_has_no_gradient(decay: float) -> None:
    case = random_case(1, 90, 2, 20)
    case.w[:, 40] = decay
    got = run(native, case)
    assert not got["w"][:, 40].any() and got["w"][:, 41].all()
    assert_close(got, run(chunked, case, torch.float64), 2e-6)


@pytest.mark.parametrize("constant", [True, False])
def test_a_slow_decay_keeps_its_digits_over_a_hundred_thousand_tokens(constant: bool) -> None:
    check(slow_case(1, 100_003, 1, 4, constant), 3e-5)  # 5e-4 with decays rounded to fp32


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("constant", [True, False])
def test_any_number_of_threads_and_time_segments(
    threads: Callable[[int], None], count: int, constant: bool
) -> None:
    for shape in ((1, 1501, 1, 16), (1, 1000, 2, 20), (3, 300, 2, 8)):
        case = random_case(*shape, constant=constant)
        true = run(chunked, case, torch.float64)
        threads(count)
        assert_close(run(native, case), true, 4e-6)
        threads(1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("constant", [True, False])
def test_half_precision_inputs_are_computed_in_float32(dtype: torch.dtype, constant: bool) -> None:
    case = random_case(2, 140, 2, 37, constant=constant)
    narrow = {name: getattr(case, name).to(dtype) for name in ("r", "k", "v", "grad_y")}
    case = case._replace(**narrow)
    wrong = errors(run(native, case), run(chunked, case, torch.float64))
    rounding = torch.finfo(dtype).eps  # y, gr, gk and gv are rounded once when they are stored
    limits = dict.fromkeys(NAMES, 1e-5) | dict.fromkeys(("y", "r", "k", "v"), rounding)
    assert all(wrong[name] <= limits[name] for name in NAMES), wrong


@pytest.mark.parametrize("constant", [True, False])
def test_gradients_are_deterministic(threads: Callable[[int], None], constant: bool) -> None:
    threads(2)
    case = random_case(2, 700, 3, 33, constant=constant)
    first, second = run(native, case), run(native, case)
    assert all(torch.equal(first[name], second[name]) for name in NAMES)


def test_threads_do_not_show_where_time_is_not_cut(threads: Callable[[int], None]) -> None:
    case, results = random_case(2, 200, 3, 64), []
    for count in (1, 2, 6):
        threads(count)
        results.append(run(native, case))
    for other in results[1:]:
        assert all(torch.equal(results[0][name], other[name]) for name in NAMES)


def test_nan_stays_in_its_head_and_sequence_going_backward() -> None:
    case = random_case(2, 120, 3, 20)
    case.v[1, 50, 2, 3] = torch.nan
    inputs = [x.clone().requires_grad_() for x in case[:6]]
    grads = torch.autograd.grad(native(*inputs), inputs, (case.grad_y, case.grad_state))
    for grad in (grads[0], grads[1], grads[2], grads[3], grads[5]):
        assert grad[0].isfinite().all()
    assert grads[0][1, :50].isfinite().all() and grads[0][:, :, :2].isfinite().all()
    assert grads[4][:2].isfinite().all() and grads[4][2].isnan().all()


@pytest.mark.parametrize("length", [1, 300])
def test_a_positive_decay_is_found_wherever_it_is(length: int) -> None:
    case = random_case(2, length, 2, 5)
    case.w[1, 0, 1, 4] = 1e-3
    for backend in ("cpu", "reference"):
        with pytest.raises(UserError, match=r"its largest value is 0\.001"):
            native(*case[:6], backend=backend)


def test_the_callers_rounding_mode_is_left_alone() -> None:
    native(*random_case(1, 64, 1, 16)[:6])
    assert (torch.tensor([1e-40]) * 1.0).item() > 0
