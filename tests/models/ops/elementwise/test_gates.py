"""Gates and activations against their formulas in fp64."""

import pytest
import torch
from torch import Tensor

from core.errors import UserError
from models.ops.elementwise import gate, squared_relu, token_shift_mix
from tests.models.ops.elementwise.compare import compare, dtypes, rounding, shapes

OPS = torch.ops.crossover


def plain_gate(r: Tensor, x: Tensor) -> Tensor:
    return torch.sigmoid(r) * x


def plain_squared_relu(x: Tensor) -> Tensor:
    return torch.relu(x) ** 2


@shapes
@dtypes
def test_values_and_gradients(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    r, x = 3 * torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
    compare(gate, plain_gate, (r, x), rounding(dtype))
    compare(squared_relu, plain_squared_relu, (x,), rounding(dtype))


def test_large_arguments_and_nan() -> None:
    x = torch.tensor([-1e30, -200.0, -90.0, 0.0, 90.0, 1e30, torch.inf, -torch.inf, torch.nan])
    got, want = gate(x, torch.ones(9)), torch.sigmoid(x)
    torch.testing.assert_close(got, want, equal_nan=True)
    torch.testing.assert_close(squared_relu(x), torch.relu(x) ** 2, equal_nan=True)


def test_outputs_too_large_for_the_cache() -> None:
    z = torch.randn(1, 16_400, 520)
    torch.testing.assert_close(gate(z, z), torch.sigmoid(z) * z)


def test_opcheck() -> None:
    z = torch.randn(2, 9, 6, requires_grad=True)
    torch.library.opcheck(OPS.gate, (z, z.detach().clone().requires_grad_()))
    torch.library.opcheck(OPS.squared_relu, (z,))


def test_compiles_without_a_graph_break() -> None:
    z, mu = torch.randn(2, 9, 5), torch.rand(2, 5)

    def block(z: Tensor, mu: Tensor) -> Tensor:
        a, b = token_shift_mix(z, torch.zeros(2, 5), mu)
        return gate(a, squared_relu(b))

    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(z, mu), block(z, mu))


def test_bad_input() -> None:
    z = torch.randn(2, 9, 5)
    with pytest.raises(UserError, match=r"gate: x must be \[2, 1, 5\], got \[2, 9, 5\]"):
        gate(z[:, :1], z)
