"""Inputs, the fp64 truth and a comparison, shared by the tests of every back end."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

NAMES = ("y", "state", "r", "w", "k", "v", "a", "b", "state_in")
FLOOR = -0.6065306597  # the strongest log-decay of RWKV-7: -e^{-1/2}
Operator = Callable[..., tuple[Tensor, Tensor]]


class Case(NamedTuple):
    """Arguments of wkv7 and the gradients that come in from above."""

    r: Tensor
    w: Tensor
    k: Tensor
    v: Tensor
    a: Tensor
    b: Tensor
    state: Tensor
    grad_y: Tensor
    grad_state: Tensor

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return self[:7]


def random_case(B: int, T: int, H: int, N: int, seed: int = 0, fresh: bool = False) -> Case:
    """What an RWKV-7 layer passes: unit removal keys, rates in (0, 1), decays above the floor."""
    g = torch.Generator().manual_seed(seed)
    r, k, v, kappa, rate, w, grad_y = (torch.randn(B, T, H, N, generator=g) for _ in range(7))
    kappa = torch.nn.functional.normalize(kappa, dim=-1)
    state, grad_state = (torch.randn(B, H, N, N, generator=g) for _ in range(2))
    return Case(
        r,
        FLOOR * torch.sigmoid(3 * w - 1),
        k / N**0.5,
        v,
        -kappa,
        kappa * torch.sigmoid(rate),
        state * (not fresh),
        grad_y,
        grad_state,
    )


KINDS = ("none", "floor", "strong", "very strong", "total", "jumps", "one reset")


def decays(kind: str, like: Tensor) -> Tensor:
    """Log-decays at the edge of what RWKV-7 can have, and beyond."""
    g = torch.Generator().manual_seed(1)
    if kind == "one reset":
        return like.index_fill(1, torch.tensor([like.shape[1] // 2]), -torch.inf)
    return {
        "none": torch.zeros_like(like),
        "floor": torch.full_like(like, FLOOR),
        "strong": -20 * torch.rand(like.shape, generator=g),
        "very strong": torch.full_like(like, -100.0),
        "total": torch.full_like(like, -torch.inf),
        "jumps": like - 1000.0 * (torch.rand(like.shape, generator=g) < 0.03),
    }[kind]


def run(operator: Operator, case: Case, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Outputs and all gradients. `dtype` converts everything first (torch.float64: the truth)."""
    if dtype is not None:
        case = Case(*(x.to(dtype) for x in case))
    inputs = [x.detach().clone().requires_grad_() for x in case.inputs]
    y, state = operator(*inputs)
    grads = torch.autograd.grad((y, state), inputs, (case.grad_y.to(y.dtype), case.grad_state))
    return dict(zip(NAMES, (x.detach() for x in (y, state, *grads)), strict=True))
