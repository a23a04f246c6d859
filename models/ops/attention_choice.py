"""Which of a GPU's attention kernels is fastest for a shape: each is tried once, the best is kept.

PyTorch asks only which kernels are possible, and takes the first of a fixed order.
"""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from models.ops import attention_ways
from models.ops.attention_ways import Way

KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
TRIED = ("flash", "cudnn", "efficient")
"""All but `math`, which keeps every score."""
SHORTEST = 128
"""Queries from which a choice pays: the caches of decoded tokens have a new shape each time."""
TIMES = 3

Key = tuple[str, torch.dtype, torch.Size, torch.Size, bool, bool, bool]
_chosen: dict[Key, str | None] = {}
MOST_WAYS = 8
"""Shapes for which other ways are tried; each costs FlexAttention a compilation."""
AGREEMENT = 0.03
"""How far a result of another way may be off, of the largest value: both have rounded to bf16."""
_ways: dict[tuple[str, torch.dtype, torch.Size, torch.Size, int | None, bool], str | None] = {}


def fastest(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> str | None:
    """The fastest of `TRIED` for these shapes, with a backward pass where q has a gradient.

    q `[B, H, T, N]`, k and v `[B, G, S, N]`. The first call with a shape, type and device tries
    them. None leaves the choice to PyTorch: on a CPU, for few queries, while a graph is captured or
    compiled, and where none works.
    """
    if not _can_try(q) or q.shape[2] < SHORTEST:
        return None
    with_gradient = torch.is_grad_enabled() and q.requires_grad
    key = (str(q.device), q.dtype, q.shape, k.shape, mask is not None, causal, with_gradient)
    if key not in _chosen:
        seconds = {name: _seconds(name, q, k, v, mask, causal, with_gradient) for name in TRIED}
        works = {name: taken for name, taken in seconds.items() if taken is not None}
        _chosen[key] = min(works, key=works.__getitem__) if works else None
    return _chosen[key]


def another_way(
    q: Tensor, k: Tensor, v: Tensor, window: int | None, usual: Callable[..., Tensor]
) -> Way | None:
    """What is faster here than `usual(q, k, v)`, which is PyTorch's function; None: nothing is.

    q, k and v as for `fastest`, causal, with a window or without. The first call with a shape tries
    all ways there are. One that fails or disagrees with the usual result is not taken.
    """
    if not _can_try(q) or q.shape[2] < SHORTEST:
        return None
    ways = attention_ways.available(window is not None)
    if not ways:
        return None
    with_gradient = torch.is_grad_enabled() and q.requires_grad
    key = (str(q.device), q.dtype, q.shape, k.shape, window, with_gradient)
    if key not in _ways and len(_ways) >= MOST_WAYS:
        return None
    if key not in _ways:
        _ways[key] = None
        want, best = None, 0.0
        calls: dict[str, Callable[..., Tensor]] = {"": usual}
        calls |= {name: functools.partial(_within, way, window) for name, way in ways.items()}
        for name, call in calls.items():
            try:
                got, taken = _tried(call, q, k, v, with_gradient)
            except Exception:  # a wheel's own kinds; running out of memory
                if want is None:
                    break
                continue
            if want is None:
                want, best = got, taken
            elif taken < best and all(map(_agrees, got, want)):
                _ways[key], best = name, taken
    chosen = _ways[key]
    return None if chosen is None else ways[chosen]


def _within(way: Way, window: int | None, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return way(q, k, v, window)


def _tried(
    call: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, with_gradient: bool
) -> tuple[list[Tensor], float]:
    """The result and its gradients for some gradient of it, and the shortest time of a few."""
    given = [x.detach().requires_grad_(with_gradient) for x in (q, k, v)]
    taken = []
    for _ in range(1 + TIMES):
        start = time.perf_counter()
        y = call(*given)
        grads = torch.autograd.grad(y, given, y.detach()) if with_gradient else ()
        if y.is_cuda:
            torch.cuda.synchronize(y.device)
        taken.append(time.perf_counter() - start)
    return [y.detach(), *grads], min(taken[1:])


def _agrees(got: Tensor, want: Tensor) -> bool:
    return bool((got - want).abs().max() <= AGREEMENT * want.abs().max())


def in_use(device: torch.device, dtype: torch.dtype, heads: int, size: int) -> str | None:
    """What was chosen for the longest sequences of these heads so far, if anything."""
    others = [
        (shape[2], name)
        for (where, kind, shape, *_), name in _ways.items()
        if name and torch.device(where) == device and kind == dtype
        if (shape[1], shape[3]) == (heads, size)
    ]
    found = others or [
        (shape[2], name)
        for (where, kind, shape, *_), name in _chosen.items()
        if name and torch.device(where) == device and kind == dtype
        if (shape[1], shape[3]) == (heads, size)
    ]
    return max(found)[1] if found else None


def _can_try(q: Tensor) -> bool:
    if not q.is_cuda or isinstance(q, FakeTensor) or torch.compiler.is_compiling():
        return False
    return not torch.cuda.is_current_stream_capturing()


def _seconds(
    name: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    causal: bool,
    with_gradient: bool,
) -> float | None:
    """The shortest time of a few calls, or None where the kernel cannot do it or has no memory."""
    if mask is not None and name == "flash":
        return None
    groups = q.shape[1] != k.shape[1]
    q, k, v = (x.detach().requires_grad_(with_gradient) for x in (q, k, v))

    def call() -> None:
        with sdpa_kernel(KERNELS[name]):
            y = F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=groups
            )
        if with_gradient:
            torch.autograd.grad(y, (q, k, v), y.detach())
        if y.is_cuda:
            torch.cuda.synchronize(y.device)

    taken = []
    with warnings.catch_warnings():  # a kernel that cannot do it says why
        warnings.simplefilter("ignore")
        try:
            for _ in range(1 + TIMES):
                start = time.perf_counter()
                call()
                taken.append(time.perf_counter() - start)
        except RuntimeError:  # of which running out of memory is one
            return None
    return min(taken[1:])
