"""Inputs, the fp64 truth and a comparison, shared by the tests of every back end."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

NAMES = ("y", "state", "r", "w", "k", "v", "u", "state_in")
Operator = Callable[..., tuple[Tensor, Tensor]]


class Case(NamedTuple):
    """Arguments of wkv5 or wkv6 and the gradients that come in from above."""

    r: Tensor
    w: Tensor
    k: Tensor
    v: Tensor
    u: Tensor
    state: Tensor
    grad_y: Tensor
    grad_state: Tensor


def random_case(
    B: int, T: int, H: int, N: int, seed: int = 0, fresh: bool = False, constant: bool = False
) -> Case:
    """Decays from -1e-7 to -20 over the channels, varying in time unless `constant` (WKV-5).

    A used state unless `fresh`.
    """
    g = torch.Generator().manual_seed(seed)
    w = -torch.logspace(-7, 1.3, H * N)[torch.randperm(H * N, generator=g)].view(H, N)
    if not constant:
        w = w * torch.randn(B, T, H, N, generator=g).exp()
    r, k, v, grad_y = (torch.randn(B, T, H, N, generator=g) for _ in range(4))
    state, grad_state = (torch.randn(B, H, N, N, generator=g) for _ in range(2))
    u = torch.randn(H, N, generator=g)
    return Case(r, w, k, v, u, torch.zeros_like(state) if fresh else state, grad_y, grad_state)


def slow_case(B: int, T: int, H: int, N: int, constant: bool) -> Case:
    """Decays above -1e-4, whose rounding would show in the end."""
    case, g = random_case(B, T, H, N, constant=constant), torch.Generator().manual_seed(1)
    return case._replace(w=-1e-4 * torch.rand(case.w.shape, generator=g))


def run(operator: Operator, case: Case, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Outputs and all gradients. `dtype` converts everything first (torch.float64: the truth)."""
    if dtype is not None:
        case = Case(*(x.to(dtype) for x in case))
    inputs = [x.detach().clone().requires_grad_() for x in case[:6]]
    y, state = operator(*inputs)
    grads = [case.grad_y.to(y.dtype), case.grad_state.to(state.dtype)]
    found = torch.autograd.grad([y, state], inputs, grads)
    return dict(zip(NAMES, (x.detach() for x in (y, state, *found)), strict=True))
