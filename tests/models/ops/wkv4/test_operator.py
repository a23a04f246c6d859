"""The custom op: registration, compile, FLOPs, dtypes, and what bad input gets."""

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from core.errors import UserError
from models.ops.wkv import wkv4, wkv4_flops, wkv4_initial_state
from models.ops.wkv4.reference import wkv4_sequential
from tests.models.ops.wkv4.cases import NAMES, random_case, run


def make(B: int = 2, T: int = 40, C: int = 6) -> list[Tensor]:
    return [x.clone().requires_grad_() for x in random_case(B, T, C)[:5]]


@pytest.mark.parametrize("save", [True, False])
def test_opcheck_of_the_forward_op(save: bool) -> None:
    args = make() if save else [x.detach() for x in make()]
    torch.library.opcheck(torch.ops.crossover.wkv4, (*args, save, "auto"))


def test_opcheck_of_the_backward_op() -> None:
    w, u, k, v, state = (x.detach() for x in make())
    y, out, checkpoints = torch.ops.crossover.wkv4(w, u, k, v, state, True, "auto")
    for grads in ((y, out), (None, out), (y, None)):
        args = (w, u, k, v, checkpoints, out, *grads, "auto")
        torch.library.opcheck(torch.ops.crossover.wkv4_backward, args)


class Mixer(torch.nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.decay = torch.nn.Parameter(torch.linspace(-3, 1, channels))
        self.bonus = torch.nn.Parameter(torch.zeros(channels))
        self.keys = torch.nn.Linear(channels, channels)
        self.values = torch.nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, state = wkv4(-self.decay.exp(), self.bonus, self.keys(x), self.values(x))
        return y, state


def test_compiled_model_gives_the_same_results_and_gradients() -> None:
    torch.manual_seed(0)
    model, x = Mixer(8), torch.randn(2, 37, 8)
    results = []
    for module in (model, torch.compile(model, backend="aot_eager", fullgraph=True)):
        model.zero_grad()
        y, state = module(x)
        (y.square().sum() + state[:, :2].sum()).backward()
        results.append([y, state, *(p.grad for p in model.parameters())])
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-6, atol=1e-6)


def test_flop_counter_sees_both_passes() -> None:
    w, u, k, v, state = make()
    with FlopCounterMode(display=False) as counter:
        y, _ = wkv4(w, u, k, v, state)
        forward = counter.get_total_flops()
        y.sum().backward()
    assert forward == wkv4_flops(*k.shape)
    assert counter.get_total_flops() == 3 * forward


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_half_precision_is_rounded_only_at_its_edges(dtype: torch.dtype, backend: str) -> None:
    case = random_case(2, 70, 9)
    w, u, k, v, state = (x.clone() for x in case[:5])
    k, v = k.to(dtype), v.to(dtype)
    y, out = wkv4(w, u, k, v, state, backend=backend)
    assert y.dtype == dtype and out.dtype == torch.float32
    true_y, true_out = wkv4_sequential(*(x.double() for x in (w, u, k, v, state)))
    torch.testing.assert_close(y, true_y.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-5)
    torch.testing.assert_close(
        out[:, 0] / out[:, 1], (true_out[:, 0] / true_out[:, 1]).float(), rtol=1e-5, atol=1e-5
    )


def test_float64_runs_on_the_reference_and_nowhere_else() -> None:
    case = random_case(1, 5, 3)
    assert run(wkv4, case, torch.float64)["y"].dtype == torch.float64
    with pytest.raises(UserError, match="float64"):
        wkv4(*(x.double() for x in case[:5]), backend="cpu")


def test_missing_state_is_the_initial_state() -> None:
    w, u, k, v, _ = make()
    given = wkv4(w, u, k, v, wkv4_initial_state(k.shape[0], k.shape[2]))
    for got, want in zip(wkv4(w, u, k, v), given, strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("cut", [1, 31, 32, 39])
def test_any_split_gives_the_same_outputs_and_gradients(cut: int) -> None:
    case = random_case(2, 40, 6)

    def in_two(w: Tensor, u: Tensor, k: Tensor, v: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        first, state = wkv4(w, u, k[:, :cut], v[:, :cut], state)
        second, state = wkv4(w, u, k[:, cut:], v[:, cut:], state)
        return torch.cat([first, second], 1), state

    whole, parts = run(wkv4, case), run(in_two, case)
    for name in NAMES:
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-4, atol=1e-5)


def test_only_what_is_asked_for_needs_a_gradient() -> None:
    w, u, k, v, state = (x.detach() for x in make())
    v.requires_grad_()
    _, out = wkv4(w, u, k, v, state)
    out[:, 0].sum().backward()  # y unused
    assert v.grad.abs().sum() > 0
    with torch.no_grad():
        assert not wkv4(w, u, k, v, state)[0].requires_grad


def test_strided_inputs_are_read_correctly() -> None:
    w, u, k, v, state = (x.detach() for x in make(2, 33, 6))
    strided = k.transpose(0, 1).contiguous().transpose(0, 1)
    assert not strided.is_contiguous()
    assert torch.equal(wkv4(w, u, strided, v, state)[0], wkv4(w, u, k, v, state)[0])


BAD = {
    "w must be": {"w": torch.full((5,), -1.0)},
    "u must be": {"u": torch.zeros(6, 1)},
    "v must be": {"v": torch.zeros(2, 39, 6)},
    "state must be": {"state": torch.zeros(2, 6, 3)},
    "k must be .B, T, C.": {"k": torch.zeros(2, 40)},
    "none of them 0": {"k": torch.zeros(2, 40, 0)},
    "k must be a floating-point": {"k": torch.zeros(2, 40, 6, dtype=torch.long)},
    "v must have k's dtype": {"v": torch.zeros(2, 40, 6, dtype=torch.bfloat16)},
    "v is on meta, k on cpu": {"v": torch.zeros(2, 40, 6, device="meta")},
    "w must be negative everywhere, its largest value is 0": {"w": torch.zeros(6)},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_gets_an_error_naming_the_argument(message: str) -> None:
    good = dict(zip(("w", "u", "k", "v", "state"), (x.detach() for x in make()), strict=True))
    with pytest.raises(UserError, match=message):
        wkv4(**(good | BAD[message]))


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_nan_stays_in_its_channel_and_sequence(backend: str) -> None:
    w, u, k, v, state = (x.detach() for x in make(2, 80, 20))
    clean, _ = wkv4(w, u, k, v, state, backend=backend)
    k[0, 17, 3] = torch.nan
    y, out = wkv4(w, u, k, v, state, backend=backend)
    hurt = torch.zeros_like(y, dtype=torch.bool)
    hurt[0, 17:, 3] = True
    assert torch.equal(y.isnan(), hurt)
    assert torch.equal(y[~hurt], clean[~hurt])
    assert out[0, 0, 3].isnan() and out.isnan().any(1).sum() == 1
