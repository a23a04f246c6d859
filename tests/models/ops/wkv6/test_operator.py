"""The custom op: registration, compile, FLOPs, dtypes, and what bad input gets."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from core.errors import UserError
from models.ops.wkv import wkv5, wkv5_flops, wkv6, wkv6_flops, wkv6_initial_state
from models.ops.wkv6.reference import wkv6_sequential
from tests.models.ops.wkv6.cases import NAMES, Operator, random_case, run

both = pytest.mark.parametrize("operator", [wkv5, wkv6])


def make(operator: Operator, B: int = 2, T: int = 40, H: int = 2, N: int = 6) -> list[Tensor]:
    case = random_case(B, T, H, N, constant=operator is wkv5)
    return [x.clone().requires_grad_() for x in case[:6]]


@both
@pytest.mark.parametrize("save", [True, False])
def test_opcheck_of_the_forward_op(operator: Operator, save: bool) -> None:
    args = make(operator) if save else [x.detach() for x in make(operator)]
    torch.library.opcheck(torch.ops.crossover.wkv6, (*args, save, "auto"))


@both
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_opcheck_of_the_backward_op(operator: Operator, backend: str) -> None:
    tensors = [x.detach() for x in make(operator)]
    y, out, checkpoints = torch.ops.crossover.wkv6(*tensors, True, backend)
    for grads in ((y, out), (None, out), (y, None)):
        args = (*tensors[:5], checkpoints, *grads, backend)
        torch.library.opcheck(torch.ops.crossover.wkv6_backward, args)


class Mixer(torch.nn.Module):
    def __init__(self, operator: Operator, heads: int, size: int) -> None:
        super().__init__()
        self.operator, self.heads = operator, heads
        self.project = torch.nn.Linear(heads * size, 4 * heads * size)
        self.decay = torch.nn.Parameter(torch.linspace(-6, 1, heads * size).view(heads, size))
        self.bonus = torch.nn.Parameter(torch.zeros(heads, size))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r, w, k, v = self.project(x).unflatten(-1, (4, self.heads, -1)).unbind(2)
        w = -self.decay.exp() if self.operator is wkv5 else -(self.decay + w).exp()
        return self.operator(r, w, k, v, self.bonus)


@both
def test_compiled_model_gives_the_same_results_and_gradients(operator: Operator) -> None:
    torch.manual_seed(0)
    model, x = Mixer(operator, 2, 4), torch.randn(2, 37, 8)
    results = []
    for module in (model, torch.compile(model, backend="aot_eager", fullgraph=True)):
        model.zero_grad()
        y, state = module(x)
        (y.square().sum() + state.sum()).backward()
        results.append([y, state, *(p.grad for p in model.parameters())])
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("operator", "flops"), [(wkv5, wkv5_flops), (wkv6, wkv6_flops)])
def test_flop_counter_sees_both_passes(operator: Operator, flops: Callable[..., int]) -> None:
    tensors = make(operator)
    with FlopCounterMode(display=False) as counter:
        y, _ = operator(*tensors)
        forward = counter.get_total_flops()
        y.sum().backward()
    assert forward == flops(*tensors[0].shape)
    assert counter.get_total_flops() == 3 * forward


def test_flops_are_those_of_the_recurrence() -> None:
    B, T, H, N = 2, 3, 4, 5
    read_decay_and_add, bonus = 2 * N * N + N * N + 2 * N * N, N + 2 * N + 2 * N
    assert wkv5_flops(B, T, H, N) == B * T * H * (read_decay_and_add + bonus)
    assert wkv6_flops(B, T, H, N) - wkv5_flops(B, T, H, N) == B * T * H * N


@both
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_half_precision_is_rounded_only_at_its_edges(
    operator: Operator, dtype: torch.dtype, backend: str
) -> None:
    r, w, k, v, u, state = (x.detach() for x in make(operator, T=70))
    r, k, v = (x.to(dtype) for x in (r, k, v))
    y, out = operator(r, w, k, v, u, state, backend=backend)
    assert y.dtype == dtype and out.dtype == torch.float32
    true_y, true_out = wkv6_sequential(*(x.double() for x in (r, w, k, v, u, state)))
    torch.testing.assert_close(y, true_y.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-4)
    torch.testing.assert_close(out, true_out.float(), rtol=1e-5, atol=1e-4)


@both
def test_float64_runs_on_the_reference_and_nowhere_else(operator: Operator) -> None:
    case = random_case(1, 5, 1, 3, constant=operator is wkv5)
    assert run(operator, case, torch.float64)["y"].dtype == torch.float64
    with pytest.raises(UserError, match="float64"):
        operator(*(x.double() for x in case[:6]), backend="cpu")


@both
def test_missing_state_is_the_initial_state(operator: Operator) -> None:
    *tensors, _ = make(operator)
    given = operator(*tensors, wkv6_initial_state(2, 2, 6))
    for got, want in zip(operator(*tensors), given, strict=True):
        assert torch.equal(got, want)


@both
@pytest.mark.parametrize("cut", [1, 31, 32, 39])
def test_any_split_gives_the_same_outputs_and_gradients(operator: Operator, cut: int) -> None:
    case = random_case(2, 40, 2, 6, constant=operator is wkv5)

    def in_two(
        r: Tensor, w: Tensor, k: Tensor, v: Tensor, u: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        ys = []
        for part in (slice(0, cut), slice(cut, None)):
            decay = w if operator is wkv5 else w[:, part]
            y, state = operator(r[:, part], decay, k[:, part], v[:, part], u, state)
            ys.append(y)
        return torch.cat(ys, 1), state

    whole, parts = run(operator, case), run(in_two, case)
    for name in NAMES:
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-4, atol=1e-4)


@both
def test_only_what_is_asked_for_needs_a_gradient(operator: Operator) -> None:
    tensors = [x.detach() for x in make(operator)]
    v = tensors[3].requires_grad_()
    _, out = operator(*tensors)
    out.sum().backward()  # y unused
    assert v.grad.abs().sum() > 0
    with torch.no_grad():
        assert not operator(*tensors)[0].requires_grad


@both
def test_strided_inputs_are_read_correctly(operator: Operator) -> None:
    tensors = [x.detach() for x in make(operator, T=33)]
    strided = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in tensors]
    assert not strided[0].is_contiguous()
    for got, want in zip(operator(*strided), operator(*tensors), strict=True):
        assert torch.equal(got, want)


BAD = {
    "w must be": {"w": torch.full((2, 40, 2, 5), -1.0)},
    "u must be": {"u": torch.zeros(2, 6, 1)},
    "k must be": {"k": torch.zeros(2, 39, 2, 6)},
    "v must be": {"v": torch.zeros(2, 40, 12)},
    "state must be": {"state": torch.zeros(2, 2, 6)},
    "r must be .B, T, H, N.": {"r": torch.zeros(2, 40, 12)},
    "none of them 0": {"r": torch.zeros(2, 0, 2, 6)},
    "r must be a floating-point": {"r": torch.zeros(2, 40, 2, 6, dtype=torch.long)},
    "v must have r's dtype": {"v": torch.zeros(2, 40, 2, 6, dtype=torch.bfloat16)},
    "k is on meta, r on cpu": {"k": torch.zeros(2, 40, 2, 6, device="meta")},
    "w must not be positive anywhere, its largest value is 1": {"w": torch.ones(2, 40, 2, 6)},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_gets_an_error_naming_the_argument(message: str) -> None:
    good = dict(zip(("r", "w", "k", "v", "u", "state"), make(wkv6), strict=True))
    with pytest.raises(UserError, match=message):
        wkv6(**(good | BAD[message]))


def test_each_operator_wants_its_own_decay() -> None:
    with pytest.raises(UserError, match=r"wkv5: w must be \[2, 6\]"):
        wkv5(*make(wkv6))
    with pytest.raises(UserError, match=r"wkv6: w must be \[2, 40, 2, 6\]"):
        wkv6(*make(wkv5))


@both
@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("hurt", ["r", "k", "v"])
def test_nan_goes_forward_in_its_own_head_and_sequence(
    operator: Operator, backend: str, hurt: str
) -> None:
    tensors = [x.detach() for x in make(operator, T=80, H=3, N=5)]
    clean, _ = operator(*tensors, backend=backend)
    tensors["rwkv".index(hurt)][0, 17, 1, 3] = torch.nan
    y, out = operator(*tensors, backend=backend)
    expected = torch.zeros_like(y, dtype=torch.bool)
    if hurt == "r":
        expected[0, 17, 1] = True  # reads, but leaves no trace
    elif hurt == "k":
        expected[0, 17:, 1] = True  # every later token reads its row of the state
    else:
        expected[0, 17:, 1, 3] = True
    assert torch.equal(y.isnan(), expected)
    assert torch.equal(y[~expected], clean[~expected])
    assert out.isnan().sum() == (0 if hurt == "r" else 5)
