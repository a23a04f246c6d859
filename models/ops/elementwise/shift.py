"""Token shift: every token blended with the one before it, in several proportions at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from core.errors import UserError
from models.ops.elementwise import kernels
from models.ops.elementwise.fused import fused
from models.ops.elementwise.kernels import MOST_MIXES
from models.ops.intercept import interceptable


@interceptable
def shifted(x: Tensor, state: dict[str, Any] | None) -> tuple[Tensor, Tensor | None]:
    """What a token shift of x `[B, T, C]` reads before it, and what it leaves in the state.

    Returns the token before the first, `[B, C]`: `state["shift"]`, or zeros without a state; and
    the last token, `[B, C]`, or None without a state.
    """
    if state is None:
        return x.new_zeros(x.shape[0], x.shape[2]), None
    return state["shift"], x[:, -1].clone()


def token_shift_mix(
    z: Tensor, previous: Tensor, mu: Tensor, of_previous: bool = False
) -> tuple[Tensor, ...]:
    """Blend every token with the one before it, in M different proportions.

    Args:
        z: `[B, T, C]`.
        previous: `[B, C]`, the token before the first.
        mu: `[M, C]`, share of the current token, 1 <= M <= 6.
        of_previous: whether mu is the share of the token before it instead.

    Returns:
        M tensors `[B, T, C]` in z's dtype: mix_m = z mu_m + prev (1 - mu_m), prev_t = z_{t-1}.

    Raises `UserError` naming an argument that does not fit.
    """
    if not 1 <= len(mu) <= MOST_MIXES:
        raise UserError(
            f"token_shift_mix: mu must be [M, C] with M from 1 to {MOST_MIXES}, "
            f"got {list(mu.shape)}"
        )
    return _token_shift_mix(z, previous, mu, float(of_previous))


def before(z: Tensor, previous: Tensor) -> Tensor:
    """The token before each of z `[B, T, C]`: previous `[B, C]`, then z without its last."""
    return torch.cat([previous[:, None], z[:, :-1]], dim=1)


@fused(kernels.token_shift_mix, z="B T C", previous="B C", mu="M C")
def _token_shift_mix(
    z: Tensor, previous: Tensor, mu: Tensor, of_previous: float
) -> tuple[Tensor, ...]:
    past = before(z, previous)
    base, other = (z, past) if of_previous else (past, z)
    return tuple(base + (other - base) * share for share in mu.unbind())
