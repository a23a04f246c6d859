"""Token shift against its formula in fp64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from core.errors import UserError
from models.ops.elementwise import token_shift_mix
from tests.models.ops.elementwise.compare import compare, dtypes, rounding, shapes

OPS = torch.ops.crossover


def plain_mix(z: Tensor, previous: Tensor, mu: Tensor) -> tuple[Tensor, ...]:
    past = torch.cat([previous[:, None], z[:, :-1]], 1)
    return tuple(z * share + past * (1 - share) for share in mu)


@shapes
@dtypes
@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_token_shift_mix(shape: tuple[int, ...], dtype: torch.dtype, count: int) -> None:
    torch.manual_seed(0)
    B, _, C = shape
    inputs = (torch.randn(shape).to(dtype), torch.randn(B, C).to(dtype), torch.rand(count, C))
    compare(token_shift_mix, plain_mix, inputs, rounding(dtype, 1))


def test_outputs_too_large_for_the_cache() -> None:
    torch.manual_seed(0)
    z = torch.randn(1, 16_400, 520)
    mu, start = torch.rand(2, 520), torch.zeros(1, 520)
    for got, want in zip(token_shift_mix(z, start, mu), plain_mix(z, start, mu), strict=True):
        torch.testing.assert_close(got, want)


def test_any_split_gives_the_same_mixes() -> None:
    z, mu, start = torch.randn(2, 40, 9), torch.rand(5, 9), torch.zeros(2, 9)
    whole = token_shift_mix(z, start, mu)
    first = token_shift_mix(z[:, :17], start, mu)
    second = token_shift_mix(z[:, 17:], z[:, 16], mu)
    for all_at_once, *parts in zip(whole, first, second, strict=True):
        assert torch.equal(all_at_once, torch.cat(parts, 1))


def test_an_unused_mix_has_no_gradient() -> None:
    z, mu = torch.randn(1, 5, 3, requires_grad=True), torch.rand(3, 3, requires_grad=True)
    first, _, _ = token_shift_mix(z, torch.zeros(1, 3), mu)
    first.sum().backward()
    assert mu.grad[0].abs().sum() > 0 and mu.grad[1:].abs().sum() == 0


def test_opcheck() -> None:
    z, previous, mu = (torch.randn(*s, requires_grad=True) for s in ((2, 9, 5), (2, 5), (5, 5)))
    torch.library.opcheck(OPS.token_shift_mix, (z, previous, mu, 0.0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda z: token_shift_mix(z, z[:, 0], torch.rand(3, 4)),
            r"mu must be \[3, 5\], got \[3, 4\]",
        ),
        (lambda z: token_shift_mix(z, z[:, 0], torch.rand(7, 5)), "M from 1 to 6"),
        (lambda z: token_shift_mix(z, torch.rand(5, 2), torch.rand(1, 5)), "previous must be"),
    ],
)
def test_bad_input(call: Callable[..., object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        call(torch.randn(2, 9, 5))
