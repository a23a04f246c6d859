"""Causal softmax attention as an operator: PyTorch's kernels, their masks, sliding windows."""

from __future__ import annotations

import contextlib

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import sdpa_kernel

from core.errors import UserError
from models.ops.attention_choice import KERNELS, another_way, fastest
from models.ops.intercept import interceptable, mixer


@mixer
def attend(q: Tensor, k: Tensor, v: Tensor, kernel: str, window: int | None = None) -> Tensor:
    """softmax(q k^T / sqrt(N)) v, causal, the last query aligned with the last key.

    q `[B, H, T, N]`, k and v `[B, G, S, N]` with S >= T; returns `[B, H, T, N]`. With a `window` W
    a query sees its own key and the W - 1 before it (Mistral 7B, arXiv 2310.06825, section 2), at a
    cost of O(T W) in time and in memory, whatever the kernel. `kernel` is a name of `KERNELS` or
    `auto`, the fastest on a GPU of those and of `models.ops.attention_ways`, PyTorch's choice
    elsewhere. Raises `UserError` for a kernel that cannot do it.
    """
    k, v = k.to(q.dtype), v.to(q.dtype)
    reach = None if window is None or k.shape[2] <= window else window
    if kernel == "auto" and q.is_cuda:

        def usual(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return _by_pytorch(q, k, v, kernel, reach)

        if way := another_way(q, k, v, reach, usual):
            return way(q, k, v, reach)
    return _by_pytorch(q, k, v, kernel, reach)


def _by_pytorch(q: Tensor, k: Tensor, v: Tensor, kernel: str, window: int | None) -> Tensor:
    """By `scaled_dot_product_attention`; a window is shorter than the keys."""
    if window is None:
        return _within_reach(q, k, v, kernel)
    # The first queries reach back to the first key; all others see W keys, whole blocks of W
    # queries at once, and what is left over.
    first = max(0, window - (k.shape[2] - q.shape[2]))
    rest = q.shape[2] - first
    last = rest % window
    parts = []
    if first:
        parts.append(_within_reach(*_until(rest, q, k, v), kernel))
    if rest >= window:
        parts.append(_blocks(*_until(last, q, k, v), rest // window, kernel, window))
    if last:
        keys = window + last
        parts.append(_banded(q[:, :, -last:], k[:, :, -keys:], v[:, :, -keys:], kernel, window))
    return torch.cat(parts, dim=2) if len(parts) > 1 else parts[0]


def attend_where(q: Tensor, k: Tensor, v: Tensor, kernel: str, seen: Tensor) -> Tensor:
    """`attend` where a query sees the keys that `seen`, bool and broadcast to `[B, H, T, S]`, says:
    one at least."""
    return _call(q, k.to(q.dtype), v.to(q.dtype), kernel, seen, causal=False)


def attend_one(q: Tensor, k: Tensor, v: Tensor, past: Tensor) -> Tensor:
    """`attend` for one query over a cache of which only the device knows how full it is.

    q `[B, H, 1, N]`, k and v `[B, G, S, N]`, finite everywhere; `past` `[1]`, int64, counts the
    tokens before this one, whose key and value are in the cache already. A ring that has gone
    round is full. As matrix products, since a GPU then reads the cache with all of its processors.
    """
    batch, heads, _, size = q.shape
    groups, room = k.shape[1], k.shape[2]
    rows = (q * size**-0.5).reshape(batch * groups, heads // groups, size)
    keys, values = (x.to(q.dtype).flatten(0, 1) for x in (k, v))  # [B G, S, N]
    if q.is_cuda and q.dtype != torch.float32:
        scores = torch.bmm(rows, keys.transpose(1, 2), out_dtype=torch.float32)
    else:
        scores = torch.bmm(rows, keys.transpose(1, 2)).float()
    is_empty = torch.arange(room, device=q.device) > past
    shares = scores.masked_fill(is_empty, float("-inf")).softmax(-1)  # [B G, H / G, S]
    return torch.bmm(shares.to(q.dtype), values).view(batch, heads, 1, size)


@interceptable
def first_position(past: int, length: int) -> int:
    """Where in its sequence the first of `length` tokens stands, after a cache of `past` tokens."""
    return past


def query_key_pairs(length: int, past: int, window: int | None, dense: bool) -> int:
    """Keys seen by `length` queries after `past` tokens: min(t, W) by query t, counted from 1.

    The dense convention gives every query the keys of the last one: all S, or W of them.
    """
    end = past + length
    reach = min(end, window or end)
    if dense:
        return length * reach

    def until(t: int) -> int:
        ramp = min(t, reach)
        return ramp * (ramp + 1) // 2 + (t - ramp) * reach

    return until(end) - until(past)


def _until(left_out: int, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All but the last queries, and the keys and values that end with them."""
    queries, keys = q.shape[2] - left_out, k.shape[2] - left_out
    return q[:, :, :queries], k[:, :, :keys], v[:, :, :keys]


def _within_reach(q: Tensor, k: Tensor, v: Tensor, kernel: str) -> Tensor:
    """Every query sees all keys up to its own."""
    length, keys = q.shape[2], k.shape[2]
    mask = None
    if 1 < length < keys:
        ones = torch.ones(length, keys, dtype=torch.bool, device=q.device)
        mask = ones.tril(keys - length)
    causal = True if length == keys > 1 else False  # noqa: SIM210 (a compiler's sizes are symbols)
    return _call(q, k, v, kernel, mask, causal)


def _blocks(q: Tensor, k: Tensor, v: Tensor, count: int, kernel: str, window: int) -> Tensor:
    """The last `count` blocks of W queries, each with the keys of its own block and of the last."""
    batch = q.shape[0]

    def cut(x: Tensor, blocks: int) -> Tensor:
        """`[B, H, blocks * W, N]`, of the end of x, to `[B, blocks, H, W, N]`."""
        return x[:, :, -blocks * window :].unflatten(2, (blocks, window)).transpose(1, 2)

    def with_last(x: Tensor) -> Tensor:
        x = cut(x, count + 1)
        return torch.cat((x[:, :-1], x[:, 1:]), dim=3).flatten(0, 1)

    y = _banded(cut(q, count).flatten(0, 1), with_last(k), with_last(v), kernel, window)
    return y.unflatten(0, (batch, count)).transpose(1, 2).flatten(2, 3)


def _banded(q: Tensor, k: Tensor, v: Tensor, kernel: str, window: int) -> Tensor:
    """T queries after W keys: query t sees W of the W + T keys, the last of them its own."""
    ones = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device)
    return _call(q, k, v, kernel, ones.triu(1).tril(window), causal=False)


def _call(
    q: Tensor, k: Tensor, v: Tensor, kernel: str, mask: Tensor | None, causal: bool
) -> Tensor:
    if mask is not None and kernel == "flash" and q.is_cuda:
        raise UserError(
            "model.attention=flash cannot mask on a GPU, which windows and chunks of a prompt "
            "need: use auto or efficient"
        )
    name = fastest(q, k, v, mask, causal) if kernel == "auto" else kernel
    with contextlib.nullcontext() if name is None else sdpa_kernel(KERNELS[name]):
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1]
        )
