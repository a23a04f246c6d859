"""RWKV-7's preparation of what its recurrence reads (Goose, arXiv 2503.14456, section 4)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from core.errors import UserError
from models.ops.elementwise import cpu
from models.ops.elementwise.fused import Fused, to_fp32

DECAY_SCALE = math.exp(-0.5)
SMALLEST_NORM = 1e-12


def log_decay(e: Tensor, w0: Tensor) -> Tensor:
    """log w = -e^(-1/2) sigmoid(w0 + e): at most 0, at least -0.6065. e `[B, T, C]`; fp32."""
    (w0,) = to_fp32(w0.flatten())
    return _decay(e, w0)[0]


def value_residual(v: Tensor, first: Tensor, e: Tensor, v0: Tensor) -> Tensor:
    """v + (first - v) sigmoid(v0 + e), first being layer 0's value. All `[B, T, C]`, v0 `[C]`."""
    (v0,) = to_fp32(v0.flatten())
    return _residual(v, first.to(v.dtype), e.to(v.dtype), v0)[0]


def delta_keys(
    k: Tensor, e: Tensor, a0: Tensor, k_k: Tensor, k_a: Tensor, heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The keys of the delta rule: what is written, what is removed, and how much of it.

    With the rate a = sigmoid(a0 + e) and kappa = k k_k, normalised in every head:

        (k (1 + (a - 1) k_a),  -kappa,  kappa a)

    k, e `[B, T, C]`; a0, k_k, k_a `[C]`; returns three of `[B, T, H, N]` in k's dtype.
    Raises `UserError` if C is not a multiple of `heads`.
    """
    if k.shape[-1] % heads:
        raise UserError(f"delta_keys: {k.shape[-1]} channels do not make {heads} heads")
    a0, k_k, k_a = (x.view(heads, -1) for x in to_fp32(a0, k_k, k_a))
    k, e = k.unflatten(-1, (heads, -1)), e.to(k.dtype).unflatten(-1, (heads, -1))
    key, a, b = _keys(k, e, a0, k_k, k_a)
    return key, a, b


def _log_decay(e: Tensor, w0: Tensor) -> Tensor:
    return -DECAY_SCALE * torch.sigmoid(w0 + to_fp32(e)[0])


def _value_residual(v: Tensor, first: Tensor, e: Tensor, v0: Tensor) -> Tensor:
    own, wide_first, wide_e = to_fp32(v, first, e)
    return (own + (wide_first - own) * torch.sigmoid(v0 + wide_e)).to(v.dtype)


def _delta_keys(
    k: Tensor, e: Tensor, a0: Tensor, k_k: Tensor, k_a: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    full, wide_e = to_fp32(k, e)
    rate = torch.sigmoid(a0 + wide_e)
    kappa = torch.nn.functional.normalize(full * k_k, dim=-1, eps=SMALLEST_NORM)
    key = full * (1 + (rate - 1) * k_a)
    return key.to(k.dtype), (-kappa).to(k.dtype), (kappa * rate).to(k.dtype)


_decay = Fused(_log_decay, cpu.log_decay, cpu.log_decay_backward)
_residual = Fused(_value_residual, cpu.value_residual, cpu.value_residual_backward)
_keys = Fused(_delta_keys, cpu.delta_keys, cpu.delta_keys_backward)
