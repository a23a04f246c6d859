"""The fused elementwise ops against the formulas written out in fp64."""

import pytest
import torch

from models.errors import UserError
from models.pointwise import gate, rms_norm, rotate, squared_relu, swiglu, token_shift_mix

OPS = torch.ops.crossover
SHAPES = [(1, 1, 1), (2, 33, 7), (1, 600, 16), (3, 40, 50), (1, 1030, 90)]


def plain_mix(z, previous, mu):
    past = torch.cat([previous[:, None], z[:, :-1]], 1)
    return tuple(z * share + past * (1 - share) for share in mu)


def plain_gate(r, x):
    return (torch.sigmoid(r) * x,)


def plain_squared_relu(x):
    return (torch.relu(x) ** 2,)


def plain_swiglu(x):
    first, second = x.chunk(2, dim=-1)
    return (first * torch.sigmoid(first) * second,)


def plain_rms_norm(x, weight):
    return (x / torch.sqrt(x.square().mean(-1, keepdim=True) + 1e-5) * weight,)


def plain_rotate(x, cos, sin):
    """As multiplication of complex numbers."""
    first, second = x.chunk(2, dim=-1)
    turned = torch.complex(first, second) * torch.complex(cos, sin)[:, None]
    return (torch.cat((turned.real, turned.imag), -1),)


def compare(fused, plain, inputs, tolerance):
    """Outputs and gradients of `fused` against `plain` in fp64, relative to the largest value."""
    torch.manual_seed(1)
    ours = [x.detach().clone().requires_grad_() for x in inputs]
    true = [x.detach().double().requires_grad_() for x in inputs]
    got, want = fused(*ours), plain(*true)
    got = got if isinstance(got, tuple) else (got,)
    grads = [torch.randn_like(x) for x in got]
    got = [*got, *torch.autograd.grad(got, ours, grads)]
    want = [*want, *torch.autograd.grad(want, true, [x.double() for x in grads])]
    for ours_x, true_x in zip(got, want, strict=True):
        error = (ours_x.double() - true_x).abs().max() / true_x.abs().max().clamp(min=1e-3)
        assert error <= tolerance, error


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_token_shift_mix(shape, dtype, count):
    torch.manual_seed(0)
    B, T, C = shape
    tolerance = max(torch.finfo(dtype).eps, 2e-6)
    inputs = (torch.randn(B, T, C).to(dtype), torch.randn(B, C).to(dtype), torch.rand(count, C))
    compare(token_shift_mix, plain_mix, inputs, tolerance)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_gate_and_squared_relu(shape, dtype):
    torch.manual_seed(0)
    tolerance = max(2 * torch.finfo(dtype).eps, 2e-6)
    r, x = 3 * torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
    compare(gate, plain_gate, (r, x), tolerance)
    compare(squared_relu, plain_squared_relu, (x,), tolerance)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_swiglu_and_rms_norm(shape, dtype):
    torch.manual_seed(0)
    tolerance = max(4 * torch.finfo(dtype).eps, 3e-6)
    x = 3 * torch.randn(shape).to(dtype)
    compare(swiglu, plain_swiglu, (torch.cat((x, x.flip(-1)), -1),), tolerance)
    if shape[-1] == 1:
        return  # one channel is its own norm: the true gradient is nothing but rounding
    weight = torch.rand(shape[-1]) + 0.5
    compare(lambda x, w: rms_norm(x, w, 1e-5), plain_rms_norm, (x, weight), tolerance)


@pytest.mark.parametrize("half", [1, 3, 16, 32, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_rotate(half, dtype):
    torch.manual_seed(0)
    angle = 100 * torch.rand(11, half)
    x = torch.randn(2, 11, 3, 2 * half).to(dtype)
    cos, sin = angle.cos(), angle.sin()
    tolerance = max(2 * torch.finfo(dtype).eps, 2e-6)
    compare(
        lambda x: rotate(x, cos, sin), lambda x: plain_rotate(x, cos.double(), sin.double()), (x,),
        tolerance,
    )  # fmt: skip
    wider = torch.cat((x, x), dim=2)  # a slice of a fused projection needs no copy
    assert torch.equal(rotate(wider[:, :, :3], cos, sin), rotate(x, cos, sin))
    assert torch.equal(
        rotate(x.transpose(0, 1).contiguous().transpose(0, 1), cos, sin), rotate(x, cos, sin)
    )


def test_large_arguments_and_nan():
    x = torch.tensor([-1e30, -200.0, -90.0, 0.0, 90.0, 1e30, torch.inf, -torch.inf, torch.nan])
    got, want = gate(x, torch.ones(9)), torch.sigmoid(x)
    torch.testing.assert_close(got, want, equal_nan=True)
    torch.testing.assert_close(squared_relu(x), torch.relu(x) ** 2, equal_nan=True)


def test_outputs_too_large_for_the_cache():
    torch.manual_seed(0)
    z = torch.randn(1, 16_400, 520)
    mu, start = torch.rand(2, 520), torch.zeros(1, 520)
    for got, want in zip(token_shift_mix(z, None, mu), plain_mix(z, start, mu), strict=True):
        torch.testing.assert_close(got, want)
    torch.testing.assert_close(gate(z, z), torch.sigmoid(z) * z)


def test_any_split_gives_the_same_mixes():
    z, mu = torch.randn(2, 40, 9), torch.rand(3, 9)
    whole = token_shift_mix(z, None, mu)
    first = token_shift_mix(z[:, :17], None, mu)
    second = token_shift_mix(z[:, 17:], z[:, 16], mu)
    for all_at_once, *parts in zip(whole, first, second, strict=True):
        assert torch.equal(all_at_once, torch.cat(parts, 1))


def test_an_unused_mix_has_no_gradient():
    z, mu = torch.randn(1, 5, 3, requires_grad=True), torch.rand(3, 3, requires_grad=True)
    first, _, _ = token_shift_mix(z, None, mu)
    first.sum().backward()
    assert mu.grad[0].abs().sum() > 0 and mu.grad[1:].abs().sum() == 0


def test_opcheck():
    z, previous, mu = (torch.randn(*s, requires_grad=True) for s in ((2, 9, 5), (2, 5), (3, 5)))
    torch.library.opcheck(OPS.token_shift_mix, (z, previous, mu))
    torch.library.opcheck(OPS.gate, (z, z.detach().clone().requires_grad_()))
    torch.library.opcheck(OPS.squared_relu, (z,))
    x = torch.randn(2, 9, 3, 6, requires_grad=True)
    torch.library.opcheck(OPS.swiglu, (x,))
    torch.library.opcheck(OPS.rms_norm, (x, torch.rand(6, requires_grad=True), 1e-5))
    torch.library.opcheck(OPS.rotate, (x, torch.rand(9, 3), torch.rand(9, 3), 1))


def test_compiles_without_a_graph_break():
    z, mu = torch.randn(2, 9, 5), torch.rand(2, 5)

    def block(z, mu):
        a, b = token_shift_mix(z, None, mu)
        return gate(a, squared_relu(b))

    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(z, mu), block(z, mu))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z: token_shift_mix(z, None, torch.rand(3, 4)), "mu must be .M, 5."),
        (lambda z: token_shift_mix(z, None, torch.rand(7, 5)), "M from 1 to 6"),
        (lambda z: token_shift_mix(z, torch.rand(5, 2), torch.rand(1, 5)), "previous must be"),
        (lambda z: gate(z[:, :1], z), "r must be"),
        (lambda z: swiglu(z), "must be even"),
        (lambda z: rms_norm(z, torch.rand(4), 1e-5), "weight must be"),
        (lambda z: rotate(z[..., None], torch.rand(9, 3), torch.rand(9, 3)), "does not fit"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(UserError, match=message):
        call(torch.randn(2, 9, 5))
