"""Arguments for every fused formula, by a shape `[B, T, H, N]`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from models import rwkv5, rwkv6, rwkv7, transformer
from models.ops.elementwise import gates, norms, rotation, shift

EPS = 1e-5
FUSED: dict[str, tuple[Any, str]] = {
    "gate": (gates.gate, "x x"),
    "squared_relu": (gates.squared_relu, "x"),
    "swiglu": (transformer.swiglu, "two"),
    "layer_norm": (norms.layer_norm, "stream c c eps"),
    "rms_norm": (norms.rms_norm, "stream c eps"),
    "add_layer_norm": (norms.add_layer_norm, "stream x c c eps"),
    "add_rms_norm": (norms.add_rms_norm, "stream x c eps"),
    "token_shift_mix": (shift._token_shift_mix, "x previous mu one"),
    "token_shift_mix_of_the_current": (shift._token_shift_mix, "x previous few zero"),
    "dynamic_mix": (rwkv6.dynamic_mix, "x previous five change"),
    "log_decay": (rwkv7.log_decay, "x c"),
    "value_residual": (rwkv7.value_residual, "x x x c"),
    "gated_head_norm": (rwkv5.gated_head_norm, "heads x c c eps"),
    "bonus_head_norm": (rwkv7.bonus_head_norm, "heads heads heads heads x head c c eps"),
    "delta_keys": (rwkv7.delta_keys, "heads heads head head head"),
}
"""The formula, and the kinds of its arguments."""
ROTATION = "rotate"
NAMES = (*FUSED, ROTATION)


def arguments(
    kinds: str, shape: tuple[int, int, int, int], dtype: torch.dtype, stream: torch.dtype
) -> list[Any]:
    """Random ones; weights are in fp32."""
    batch, length, heads, size = shape
    width = heads * size
    like: dict[str, tuple[int, ...]] = {
        "x": (batch, length, width),
        "stream": (batch, length, width),
        "two": (batch, length, 2 * width),
        "heads": shape,
        "previous": (batch, width),
        "change": (5, batch, length, width),
    }
    weights: dict[str, tuple[int, ...]] = {
        "c": (width,),
        "head": (heads, size),
        "mu": (6, width),
        "few": (3, width),
        "five": (5, width),
    }
    numbers = {"eps": EPS, "zero": 0.0, "one": 1.0}
    given: list[Any] = []
    for kind in kinds.split():
        if kind in numbers:
            given.append(numbers[kind])
        elif kind in weights:
            given.append(torch.randn(weights[kind]))
        else:
            given.append(torch.randn(like[kind]).to(stream if kind == "stream" else dtype))
    return given


def case(
    name: str,
    shape: tuple[int, int, int, int],
    dtype: torch.dtype = torch.float32,
    stream: torch.dtype | None = None,
) -> tuple[Callable[..., Any], Callable[..., Any], list[Tensor]]:
    """The formula as it is called, in plain torch, and tensors for both."""
    torch.manual_seed(len(name))
    if name == ROTATION:
        batch, length, heads, size = shape
        angle = 100 * torch.rand(length, size)
        turn = {"cos": angle.cos(), "sin": angle.sin()}
        x = torch.randn(batch, length, heads, 2 * size).to(dtype)
        return (
            functools.partial(rotation.rotate, **turn),
            functools.partial(rotation.plain, **turn),
            [x],
        )
    formula, kinds = FUSED[name]
    given = arguments(kinds, shape, dtype, stream or dtype)
    tensors = [x for x in given if isinstance(x, Tensor)]
    numbers = given[len(tensors) :]
    return (
        lambda *x: formula(*x, *numbers),
        lambda *x: formula.plain(*x, *numbers),
        tensors,
    )
