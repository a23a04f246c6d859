"""The short causal convolution before a mixer, the running sum, and what each carries over."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from models.ops.intercept import interceptable


def short_convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None, silu: bool = True
) -> tuple[Tensor, Tensor | None]:
    """y_t = bias + sum over j < K of weight_j x_{t-K+1+j}, every channel on its own; or its silu.

    x `[B, T, C]`, weight `[C, K]`, bias `[C]`; state `[B, K-1, C]` holds the tokens before x, zeros
    without one. Returns `[B, T, C]`, and the last K - 1 tokens, or None without a state.
    """
    before, after = preceding(x, state, weight.shape[1] - 1)
    whole = torch.cat((before.to(x.dtype), x), dim=1).transpose(1, 2)  # [B, C, K-1+T]
    y = F.conv1d(whole, weight[:, None].to(x.dtype), bias, groups=x.shape[2])
    return (F.silu(y) if silu else y).transpose(1, 2), after


def short_convolution_flops(batch: int, length: int, channels: int, width: int) -> int:
    """Two operations per weight and token."""
    return 2 * batch * length * channels * width


@interceptable
def preceding(x: Tensor, state: Tensor | None, count: int) -> tuple[Tensor, Tensor | None]:
    """The `count` tokens before x `[B, T, C]`, and the last ones after it: `[B, count, C]` each.

    Those before are `state`, or zeros without one; those after are None without one.
    """
    if state is None:
        return x.new_zeros(x.shape[0], count, x.shape[2]), None
    return state, last_tokens(torch.cat((state.to(x.dtype), x), dim=1), count)


def last_tokens(x: Tensor, count: int) -> Tensor:
    """The last `count` of x `[B, T, C]`, in memory of their own."""
    return x[:, x.shape[1] - count :].clone()


@interceptable
def running_sum(x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """The sum up to every token, in fp32: x `[B, T, ...]`, state `[B, ...]`, zeros without one.

    Returns the sums `[B, T, ...]`, and the last one.
    """
    compute = torch.promote_types(x.dtype, torch.float32)
    total = x.to(compute).cumsum(1)
    if state is not None:
        total = total + state.to(compute)[:, None]
    return total, total[:, -1]
