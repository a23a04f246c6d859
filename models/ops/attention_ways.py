"""Ways to attend on a GPU that PyTorch's one function for attention does not have.

FlashAttention-3 and 4 where their wheels are installed, with a window or without, and PyTorch's
FlexAttention for windows. None is taken before it was tried (`models.ops.attention_choice`).
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Way = Callable[[Tensor, Tensor, Tensor, int | None], Tensor]
"""q `[B, H, T, N]`, k and v `[B, G, S, N]` and a window to `[B, H, T, N]`, as
`models.ops.attention.attend` says."""
WHEELS = {"flash_3": "flash_attn_interface", "flash_4": "flash_attn.cute"}
"""Modules with a function `flash_attn_func`, by what they are called here."""
RECOMPILE_LIMIT = 64


def available(windowed: bool) -> dict[str, Way]:
    """The ways that this process can try, by name."""
    found = {name: way for name in WHEELS if (way := _wheel(name)) is not None}
    return {**found, "flex": flex} if windowed else found


@functools.cache
def _wheel(name: str) -> Way | None:
    """The way of a wheel, or None where it is not installed or cannot be imported."""
    module = WHEELS[name]
    try:
        if importlib.util.find_spec(module) is None:
            return None
        function = importlib.import_module(module).flash_attn_func
    except Exception:  # of CUDA's, of a library built for another PyTorch
        return None

    def attend(q: Tensor, k: Tensor, v: Tensor, window: int | None) -> Tensor:
        given: dict[str, Any] = {} if window is None else {"window_size": (window - 1, 0)}
        result = function(*(x.transpose(1, 2) for x in (q, k, v)), causal=True, **given)
        y = result[0] if isinstance(result, tuple) else result  # some give the sums too
        return y.transpose(1, 2)

    return attend


def flex(q: Tensor, k: Tensor, v: Tensor, window: int | None) -> Tensor:
    """FlexAttention, compiled on a GPU; it visits only the blocks that a window touches."""
    assert window is not None
    mask = _blocks(q.shape[2], k.shape[2], window, str(q.device))
    function = _flex_compiled() if q.is_cuda else _flex_attention()
    return function(q, k, v, block_mask=mask, enable_gqa=q.shape[1] != k.shape[1])


def _flex_attention() -> Any:
    return importlib.import_module("torch.nn.attention.flex_attention").flex_attention


@functools.cache
def _flex_compiled() -> Any:
    make: Any = torch.compile  # its overloads do not know the limit
    return make(_flex_attention(), dynamic=False, recompile_limit=RECOMPILE_LIMIT)


@functools.lru_cache(maxsize=16)
def _blocks(queries: int, keys: int, window: int, device: str) -> Any:
    """Which blocks of scores hold any that count."""
    past = keys - queries

    def seen(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        age = query + past - key
        return (age >= 0) & (age < window)

    make = importlib.import_module("torch.nn.attention.flex_attention").create_block_mask
    return make(seen, None, None, queries, keys, device=device)
