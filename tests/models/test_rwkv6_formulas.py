"""RWKV-6's fused formula against another in fp64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from core.errors import UserError
from models.rwkv6 import dynamic_mix
from tests.models.ops.elementwise.compare import compare, dtypes, rounding, shapes


def plain_dynamic(z: Tensor, previous: Tensor, mu: Tensor, change: Tensor) -> tuple[Tensor, ...]:
    past = torch.cat([previous[:, None], z[:, :-1]], 1)
    return tuple(z + (past - z) * (mu[m] + change[m]) for m in range(5))


@shapes
@dtypes
def test_dynamic_mix(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    B, _, C = shape
    change = torch.randn(5, *shape) / 2
    inputs = torch.randn(shape), torch.randn(B, C), change
    z, previous, change = (x.to(dtype) for x in inputs)
    compare(dynamic_mix, plain_dynamic, (z, previous, torch.rand(5, C), change), rounding(dtype))


def test_any_split_gives_the_same_mixes() -> None:
    z, mu, change = torch.randn(2, 40, 9), torch.rand(5, 9), torch.randn(5, 2, 40, 9)
    start = torch.zeros(2, 9)
    whole = dynamic_mix(z, start, mu, change)
    first = dynamic_mix(z[:, :17], start, mu, change[:, :, :17])
    second = dynamic_mix(z[:, 17:], z[:, 16], mu, change[:, :, 17:])
    for all_at_once, *parts in zip(whole, first, second, strict=True):
        assert torch.equal(all_at_once, torch.cat(parts, 1))


def test_opcheck() -> None:
    z, previous, mu = (torch.randn(*s, requires_grad=True) for s in ((2, 9, 5), (2, 5), (5, 5)))
    change = torch.randn(5, 2, 9, 5, requires_grad=True)
    torch.library.opcheck(torch.ops.crossover.dynamic_mix, (z, previous, mu, change))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z: dynamic_mix(z, z[:, 0], torch.rand(4, 5), z[None]), "mu must be .5, 5."),
        (lambda z: dynamic_mix(z, z[:, 0], torch.rand(5, 5), z[None]), "change must be"),
    ],
)
def test_bad_input(call: Callable[..., object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        call(torch.randn(2, 9, 5))
