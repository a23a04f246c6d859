"""Token shift: every token blended with the one before it, in several proportions at once."""

from __future__ import annotations

import torch
from torch import Tensor

from core.errors import UserError
from models.ops.elementwise import cpu
from models.ops.elementwise.fused import Fused, to_fp32

MOST_MIXES = 6


def token_shift_mix(z: Tensor, previous: Tensor | None, mu: Tensor) -> tuple[Tensor, ...]:
    """Blend every token with the one before it, in M different proportions.

    Args:
        z: `[B, T, C]`.
        previous: `[B, C]`, the token before the first; None: zeros.
        mu: `[M, C]`, share of the current token, 1 <= M <= 6.

    Returns:
        M tensors `[B, T, C]` in z's dtype: mix_m = z mu_m + prev (1 - mu_m), prev_t = z_{t-1}.

    Raises `UserError` naming an argument that does not fit.
    """
    if mu.dim() != 2 or mu.shape[1] != z.shape[2] or not 1 <= mu.shape[0] <= MOST_MIXES:
        raise UserError(
            f"token_shift_mix: mu must be [M, {z.shape[2]}] with M from 1 to {MOST_MIXES}, "
            f"got {list(mu.shape)}"
        )
    return _fixed(z, _before(z, previous), *to_fp32(mu))


def dynamic_mix(
    z: Tensor, previous: Tensor | None, mu: Tensor, change: Tensor
) -> tuple[Tensor, ...]:
    """RWKV-6's shift, whose proportions depend on the data.

    Args:
        z, previous: as for `token_shift_mix`.
        mu: `[5, C]`, share of the previous token.
        change: `[5, B, T, C]`, added to it.

    Returns:
        5 tensors `[B, T, C]`: mix_m = z + (prev - z) (mu_m + change_m).

    Raises `UserError` naming an argument that does not fit.
    """
    for name, tensor, shape in (
        ("mu", mu, [5, z.shape[2]]),
        ("change", change, [5, *z.shape]),
    ):
        if list(tensor.shape) != shape:
            raise UserError(f"dynamic_mix: {name} must be {shape}, got {list(tensor.shape)}")
    return _dynamic(z, _before(z, previous), *to_fp32(mu), change.to(z.dtype))


def _before(z: Tensor, previous: Tensor | None) -> Tensor:
    """The token before the first, `[B, C]`."""
    expected = [z.shape[0], z.shape[2]]
    if previous is None:
        return z.new_zeros(expected)
    if list(previous.shape) != expected:
        raise UserError(f"token_shift_mix: previous must be {expected}, got {list(previous.shape)}")
    return previous.to(z.dtype)


def _token_shift_mix(z: Tensor, previous: Tensor, mu: Tensor) -> tuple[Tensor, ...]:
    now, past = to_fp32(z, torch.cat([previous[:, None], z[:, :-1]], dim=1))
    return tuple((past + (now - past) * share).to(z.dtype) for share in mu.unbind())


def _dynamic_mix(z: Tensor, previous: Tensor, mu: Tensor, change: Tensor) -> tuple[Tensor, ...]:
    now, past, change = to_fp32(z, torch.cat([previous[:, None], z[:, :-1]], dim=1), change)
    shares = (mu[:, None, None] + change).unbind()
    return tuple((now + (past - now) * share).to(z.dtype) for share in shares)


_fixed = Fused(_token_shift_mix, cpu.token_shift_mix, cpu.token_shift_mix_backward)
_dynamic = Fused(_dynamic_mix, cpu.dynamic_mix, cpu.dynamic_mix_backward)
