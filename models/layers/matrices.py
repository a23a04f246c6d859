"""The matrices of a block under autocast on a GPU, rounded all at once.

Autocast rounds every weight by a launch of its own, and widens its gradient by another: a third of
the launches of a block of RWKV-7.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from models.ops.custom_op import custom_op
from models.ops.elementwise.fused import device_of


@contextlib.contextmanager
def matrices_rounded(block: nn.Module) -> Iterator[None]:
    """Let the layers of `block` meanwhile multiply with their weights in autocast's dtype.

    These are the weights of linear layers, and the parameters that a module names in `matrices`.
    Without autocast, on a CPU and within `torch.compile`, which does the same by itself, nothing
    changes; nor for weights that are not whole and in fp32, as those of strategies that keep them
    in half precision.
    """
    places = [] if torch.compiler.is_compiling() else _places(block)
    if not places:
        yield
        return
    weights = [module._parameters[name] for module, name in places]
    rounded = _round_all(weights, torch.get_autocast_dtype(weights[0].device.type))
    for (module, name), low in zip(places, rounded, strict=True):
        module._parameters[name] = low
    try:
        yield
    finally:
        for (module, name), weight in zip(places, weights, strict=True):
            module._parameters[name] = weight


def _places(block: nn.Module) -> list[tuple[Any, str]]:
    """Modules and names of the parameters to round."""
    first = next(block.parameters(), None)
    if first is None or not torch.is_autocast_enabled(first.device.type):
        return []
    if device_of(first) != "cuda" or torch.get_autocast_dtype(first.device.type) == first.dtype:
        return []
    places = []
    for module in block.modules():
        names = (*getattr(module, "matrices", ()), *["weight"] * isinstance(module, nn.Linear))
        places += [(module, name) for name in names if _is_whole(module._parameters.get(name))]
    return places


def _is_whole(weight: Any) -> bool:
    is_shard = hasattr(weight, "device_mesh") or hasattr(weight, "ds_id")  # of FSDP, of DeepSpeed
    return isinstance(weight, nn.Parameter) and not is_shard and weight.dtype == torch.float32


def _copied(tensors: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    copies = [torch.empty_like(x, dtype=dtype) for x in tensors]
    torch._foreach_copy_(copies, tensors)
    return copies


def _remember(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    weights, _ = inputs
    ctx.dtype = weights[0].dtype


def _differentiate(ctx: Any, grads: list[Tensor | None]) -> tuple[Any, None]:
    there = [grad for grad in grads if grad is not None]
    wide = iter(_round_all(there, ctx.dtype) if there else [])
    return [None if grad is None else next(wide) for grad in grads], None


_round_all = custom_op(
    "round_all",
    "(Tensor[] tensors, ScalarType dtype) -> Tensor[]",
    _copied,
    lambda tensors, dtype: [torch.empty_like(x, dtype=dtype) for x in tensors],
    dispatch=("CPU", "CUDA"),
    remember=_remember,
    differentiate=_differentiate,
)
