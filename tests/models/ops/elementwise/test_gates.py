"""Gates and activations against their formulas in fp64."""

import pytest
import torch

from core.errors import UserError
from models.ops.elementwise import gate, squared_relu, swiglu, token_shift_mix
from tests.models.ops.elementwise.compare import compare, dtypes, rounding, shapes

OPS = torch.ops.crossover


def plain_gate(r, x):
    return torch.sigmoid(r) * x


def plain_squared_relu(x):
    return torch.relu(x) ** 2


def plain_swiglu(x):
    first, second = x.chunk(2, dim=-1)
    return first * torch.sigmoid(first) * second


@shapes
@dtypes
def test_values_and_gradients(shape, dtype):
    torch.manual_seed(0)
    r, x = 3 * torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
    compare(gate, plain_gate, (r, x), rounding(dtype))
    compare(squared_relu, plain_squared_relu, (x,), rounding(dtype))
    compare(swiglu, plain_swiglu, (torch.cat((r, x), -1),), rounding(dtype, 4))


def test_large_arguments_and_nan():
    x = torch.tensor([-1e30, -200.0, -90.0, 0.0, 90.0, 1e30, torch.inf, -torch.inf, torch.nan])
    got, want = gate(x, torch.ones(9)), torch.sigmoid(x)
    torch.testing.assert_close(got, want, equal_nan=True)
    torch.testing.assert_close(squared_relu(x), torch.relu(x) ** 2, equal_nan=True)


def test_outputs_too_large_for_the_cache():
    z = torch.randn(1, 16_400, 520)
    torch.testing.assert_close(gate(z, z), torch.sigmoid(z) * z)


def test_opcheck():
    z = torch.randn(2, 9, 6, requires_grad=True)
    torch.library.opcheck(OPS.gate, (z, z.detach().clone().requires_grad_()))
    torch.library.opcheck(OPS.squared_relu, (z,))
    torch.library.opcheck(OPS.swiglu, (z,))


def test_compiles_without_a_graph_break():
    z, mu = torch.randn(2, 9, 5), torch.rand(2, 5)

    def block(z, mu):
        a, b = token_shift_mix(z, None, mu)
        return gate(a, squared_relu(b))

    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(z, mu), block(z, mu))


@pytest.mark.parametrize(
    ("call", "message"),
    [(lambda z: gate(z[:, :1], z), "r must be"), (swiglu, "must be even")],
)
def test_bad_input(call, message):
    with pytest.raises(UserError, match=message):
        call(torch.randn(2, 9, 5))
