"""Inputs, the fp64 truth and a comparison, shared by the tests of every back end."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from models.ops.wkv4 import reference

NAMES = ("y", "state", "w", "u", "k", "v", "state_in")
Operator = Callable[..., tuple[Tensor, Tensor]]


class Case(NamedTuple):
    """Arguments of wkv4 and the gradients that come in from above."""

    w: Tensor
    u: Tensor
    k: Tensor
    v: Tensor
    state: Tensor
    grad_y: Tensor
    grad_state: Tensor


def random_case(B: int, T: int, C: int, seed: int = 0, fresh: bool = False) -> Case:
    """Decays from -1e-4 to -20 over the channels; a used state unless `fresh`."""
    g = torch.Generator().manual_seed(seed)
    w = -torch.logspace(-4, 1.3, C)[torch.randperm(C, generator=g)]
    u, k, v = (torch.randn(s, generator=g) for s in ((C,), (B, T, C), (B, T, C)))
    state = torch.stack(
        [
            torch.randn(B, C, generator=g),
            torch.rand(B, C, generator=g) + 0.1,
            torch.randn(B, C, generator=g),
        ],
        dim=1,
    )
    if fresh:
        state[:, :2], state[:, 2] = 0, reference.EMPTY_EXPONENT
    grad_state = torch.randn(B, 3, C, generator=g)
    return Case(w, u, k, v, state, torch.randn(B, T, C, generator=g), grad_state)


def run(operator: Operator, case: Case, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Outputs and all gradients. `dtype` converts everything first (torch.float64: the truth).

    The outgoing state is read through a / b and log b, the same for every choice of its scale pp.
    """
    if dtype is not None:
        case = Case(*(x.to(dtype) for x in case))
    inputs = [x.detach().clone().requires_grad_() for x in case[:5]]
    y, state = operator(*inputs)
    a, b, p = state.unbind(1)
    mean, log_b = a / b, torch.log(b) + p
    outputs = [y, mean, log_b]
    grads = [case.grad_y.to(y.dtype), case.grad_state[:, 0], case.grad_state[:, 1]]
    gw, gu, gk, gv, gs = torch.autograd.grad(outputs, inputs, grads)
    state_out = torch.stack([mean, log_b], dim=1)
    return dict(zip(NAMES, (x.detach() for x in (y, state_out, gw, gu, gk, gv, gs)), strict=True))
