"""The custom op: registration, compile, FLOPs, dtypes, and what bad input gets."""

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from core.errors import UserError
from models.ops.wkv import wkv7, wkv7_flops, wkv7_initial_state
from models.ops.wkv7.reference import wkv7_sequential
from tests.models.ops.wkv7.cases import NAMES, random_case, run

ARGUMENTS = ("r", "w", "k", "v", "a", "b", "state")


def make(B: int = 2, T: int = 40, H: int = 2, N: int = 8) -> list[Tensor]:
    return [x.clone().requires_grad_() for x in random_case(B, T, H, N).inputs]


def detached(*shape: int) -> list[Tensor]:
    return [x.detach() for x in make(*shape)]


@pytest.mark.parametrize("save", [True, False])
def test_opcheck_of_the_forward_op(save: bool) -> None:
    args = make() if save else detached()
    torch.library.opcheck(torch.ops.crossover.wkv7, (*args, save, "auto"))


def test_opcheck_of_the_backward_op() -> None:
    *inputs, state = detached()
    y, out, checkpoints = torch.ops.crossover.wkv7(*inputs, state, True, "auto")
    for grads in ((y, out), (None, out), (y, None)):
        args = (*inputs, checkpoints, *grads, "auto")
        torch.library.opcheck(torch.ops.crossover.wkv7_backward, args)


class Mixer(torch.nn.Module):
    def __init__(self, heads: int, size: int) -> None:
        super().__init__()
        self.heads = heads
        self.all = torch.nn.Linear(heads * size, 6 * heads * size)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r, w, k, v, a, b = self.all(x).unflatten(-1, (6, self.heads, -1)).unbind(2)
        kappa = torch.nn.functional.normalize(a, dim=-1)
        return wkv7(r, -0.6 * torch.sigmoid(w), k, v, -kappa, kappa * torch.sigmoid(b))


def test_compiled_model_gives_the_same_results_and_gradients() -> None:
    torch.manual_seed(0)
    model, x = Mixer(2, 4), torch.randn(2, 37, 8)
    results = []
    for module in (model, torch.compile(model, backend="aot_eager", fullgraph=True)):
        model.zero_grad()
        y, state = module(x)
        (y.square().sum() + state.sum()).backward()
        results.append([y, state, *(p.grad for p in model.parameters())])
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-5, atol=1e-5)


def test_flop_counter_sees_both_passes() -> None:
    r, *rest = make()
    with FlopCounterMode(display=False) as counter:
        y, _ = wkv7(r, *rest)
        forward = counter.get_total_flops()
        y.sum().backward()
    assert forward == wkv7_flops(*r.shape)
    assert counter.get_total_flops() == 3 * forward


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_half_precision_is_rounded_only_at_its_edges(dtype: torch.dtype, backend: str) -> None:
    case = random_case(2, 70, 2, 12)
    case = case._replace(**{x: getattr(case, x).to(dtype) for x in "rkvab"})
    y, out = wkv7(*case.inputs, backend=backend)
    assert y.dtype == dtype and out.dtype == torch.float32
    true_y, true_out = wkv7_sequential(*(x.double() for x in case.inputs))
    torch.testing.assert_close(y, true_y.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-5)
    torch.testing.assert_close(out, true_out.float(), rtol=1e-5, atol=1e-5)


def test_float64_runs_on_the_reference_and_nowhere_else() -> None:
    case = random_case(1, 5, 1, 3)
    assert run(wkv7, case, torch.float64)["y"].dtype == torch.float64
    with pytest.raises(UserError, match="float64"):
        wkv7(*(x.double() for x in case.inputs), backend="cpu")


def test_missing_state_is_the_initial_state() -> None:
    *inputs, _ = make()
    B, _, H, N = inputs[0].shape
    given = wkv7(*inputs, wkv7_initial_state(B, H, N))
    for got, want in zip(wkv7(*inputs), given, strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("cut", [1, 31, 32, 39])
def test_any_split_gives_the_same_outputs_and_gradients(cut: int) -> None:
    case = random_case(2, 40, 2, 6)

    def in_two(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        *tokens, state = inputs
        first, state = wkv7(*(x[:, :cut] for x in tokens), state)
        second, state = wkv7(*(x[:, cut:] for x in tokens), state)
        return torch.cat([first, second], 1), state

    whole, parts = run(wkv7, case), run(in_two, case)
    for name in NAMES:
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-4, atol=1e-5)


def test_only_what_is_asked_for_needs_a_gradient() -> None:
    inputs = detached()
    inputs[3].requires_grad_()
    _, out = wkv7(*inputs)
    out.sum().backward()  # y unused
    assert inputs[3].grad.abs().sum() > 0
    with torch.no_grad():
        assert not wkv7(*inputs)[0].requires_grad


def test_strided_inputs_are_read_correctly() -> None:
    r, *rest = detached(2, 33, 2, 6)
    strided = r.transpose(0, 1).contiguous().transpose(0, 1)
    assert not strided.is_contiguous()
    assert torch.equal(wkv7(strided, *rest)[0], wkv7(r, *rest)[0])


FULL = (2, 40, 2, 8)
BAD = {
    "r must be .B, T, H, N.": {"r": torch.zeros(2, 40, 16)},
    "none of them 0": {"r": torch.zeros(2, 0, 2, 8)},
    "r must be a floating-point": {"r": torch.zeros(FULL, dtype=torch.long)},
    "w must be .2, 40, 2, 8.": {"w": torch.zeros(2, 8)},
    "k must be": {"k": torch.zeros(2, 39, 2, 8)},
    "v must be": {"v": torch.zeros(2, 40, 2, 9)},
    "a must have r's dtype": {"a": torch.zeros(FULL, dtype=torch.bfloat16)},
    "b is on meta, r on cpu": {"b": torch.zeros(FULL, device="meta")},
    "state must be .2, 2, 8, 8.": {"state": torch.zeros(2, 8, 8)},
    "w must be zero or negative, its largest value is 0.5": {"w": torch.full(FULL, 0.5)},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_gets_an_error_naming_the_argument(message: str) -> None:
    good = dict(zip(ARGUMENTS, detached(), strict=True))
    with pytest.raises(UserError, match=message):
        wkv7(**(good | BAD[message]))


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_nan_stays_in_its_head_and_sequence(backend: str) -> None:
    inputs = detached(2, 80, 3, 4)
    clean, _ = wkv7(*inputs, backend=backend)
    inputs[2][0, 40, 1, 3] = torch.nan
    y, out = wkv7(*inputs, backend=backend)
    hurt = torch.zeros_like(y, dtype=torch.bool)
    hurt[0, 41:, 1] = True
    assert y[hurt].isnan().all() and out[0, 1].isnan().any()
    hurt[0, 32:, 1] = True  # tokens of its chunk may suffer before it
    assert torch.equal(y[~hurt], clean[~hurt])
