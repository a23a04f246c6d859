"""Gates and activations."""

from __future__ import annotations

import torch
from torch import Tensor

from core.errors import UserError
from models.ops.elementwise import cpu
from models.ops.elementwise.fused import Fused, to_fp32


def gate(r: Tensor, x: Tensor) -> Tensor:
    """sigmoid(r) * x for two tensors of one shape; in x's dtype."""
    if r.shape != x.shape:
        raise UserError(f"gate: r must be {list(x.shape)} like x, got {list(r.shape)}")
    return _sigmoid_gate(r.to(x.dtype), x)[0]


def squared_relu(x: Tensor) -> Tensor:
    """max(x, 0) squared."""
    return _square(x)[0]


def swiglu(x: Tensor) -> Tensor:
    """silu(gate) * up for x = (gate, up) `[..., 2 F]`; returns `[..., F]`."""
    if x.shape[-1] % 2:
        raise UserError(f"swiglu: the last dimension must be even, got {list(x.shape)}")
    return _silu_gate(x)[0]


def _gate(r: Tensor, x: Tensor) -> Tensor:
    wide_r, wide_x = to_fp32(r, x)
    return (torch.sigmoid(wide_r) * wide_x).to(x.dtype)


def _squared_relu(x: Tensor) -> Tensor:
    return to_fp32(x)[0].relu().square().to(x.dtype)


def _swiglu(x: Tensor) -> Tensor:
    first, second = to_fp32(x)[0].chunk(2, dim=-1)
    return (torch.nn.functional.silu(first) * second).to(x.dtype)


_sigmoid_gate = Fused(_gate, cpu.gate, cpu.gate_backward)
_square = Fused(_squared_relu, cpu.squared_relu, cpu.squared_relu_backward)
_silu_gate = Fused(_swiglu, cpu.swiglu, cpu.swiglu_backward)
