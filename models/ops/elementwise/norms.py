"""Norms: of a row (Transformer), and of every head with the gate that follows (RWKV-5, 6, 7)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from core.errors import UserError
from models.ops.elementwise import cpu
from models.ops.elementwise.fused import Fused, to_fp32


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension; weight `[C]` in fp32."""
    _check("rms_norm", x, x.shape[-1], weight=weight)
    return _row(x, *to_fp32(weight), eps)[0]


def gated_head_norm(y: Tensor, g: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """(norm(y) * weight + bias) * silu(g), the norm over each head on its own.

    y `[B, T, H, N]`; g `[B, T, C]`; weight and bias `[C]`. Returns `[B, T, C]` in g's dtype.
    Eagle and Finch (arXiv 2404.05892), eq. 8.
    """
    _check("gated_head_norm", g, y.shape[2] * y.shape[3], weight=weight, bias=bias)
    return _gated(y.to(g.dtype), g, *to_fp32(weight, bias), eps)[0]


def bonus_head_norm(
    y: Tensor,
    r: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    r_k: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
) -> Tensor:
    """(norm(y) * weight + bias + (sum over the head of r k r_k) v) * g, the norm over each head.

    y, r, k, v `[B, T, H, N]`; g `[B, T, C]`; r_k `[H, N]`; weight and bias `[C]`. Returns
    `[B, T, C]` in g's dtype. Goose (arXiv 2503.14456), the output of its time mixing.
    """
    _check("bonus_head_norm", g, y.shape[2] * y.shape[3], weight=weight, bias=bias)
    y, r, k, v = (x.to(g.dtype) for x in (y, r, k, v))
    return _bonus(y, r, k, v, g, *to_fp32(r_k, weight, bias), eps)[0]


def _check(name: str, rows: Tensor, width: int, **vectors: Tensor) -> None:
    if rows.shape[-1] != width:
        raise UserError(f"{name}: rows must have {width} channels, got {list(rows.shape)}")
    for argument, tensor in vectors.items():
        if list(tensor.shape) != [width]:
            raise UserError(f"{name}: {argument} must be [{width}], got {list(tensor.shape)}")


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    (full,) = to_fp32(x)
    return (full * torch.rsqrt(full.square().mean(-1, keepdim=True) + eps) * weight).to(x.dtype)


def _gated_head_norm(y: Tensor, g: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    full, gates = to_fp32(y, g)
    normed = F.layer_norm(full, full.shape[-1:], eps=eps).flatten(2) * weight + bias
    return (normed * F.silu(gates)).to(g.dtype)


def _bonus_head_norm(
    y: Tensor,
    r: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    r_k: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
) -> Tensor:
    full, r, k, v, gates = to_fp32(y, r, k, v, g)
    normed = F.layer_norm(full, full.shape[-1:], eps=eps).flatten(2) * weight + bias
    bonus = (r * k * r_k).sum(-1, keepdim=True) * v
    return ((normed + bonus.flatten(2)) * gates).to(g.dtype)


_row = Fused(_rms_norm, cpu.rms_norm, cpu.rms_norm_backward)
_gated = Fused(_gated_head_norm, cpu.gated_head_norm, cpu.gated_head_norm_backward)
_bonus = Fused(_bonus_head_norm, cpu.bonus_head_norm, cpu.bonus_head_norm_backward)
