"""The C++ kernels of `cuda/wkv4_cpu.cpp`: built on first use, called through their C interface."""

from __future__ import annotations

import ctypes
import functools
from ctypes import c_int, c_int64, c_void_p

import torch
from torch import Tensor

from models.wkv.build import BuildError, shared_library
from models.wkv.reference import CHUNK

_SHAPE = [c_int64] * 3
_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


@functools.cache
def load() -> ctypes.CDLL:
    """The library, built if needed. Raises `BuildError`."""
    path = shared_library("wkv4_cpu.cpp", ["wkv4_math.h", "vec.h"])
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise BuildError(f"{path} was built but cannot be loaded: {error}") from None
    for dtype in _NAMES.values():
        getattr(library, f"wkv4_forward_{dtype}").argtypes = [*_SHAPE, *[c_void_p] * 8, c_int]
        getattr(library, f"wkv4_backward_{dtype}").argtypes = [*_SHAPE, *[c_void_p] * 12, c_int]
    return library


def wkv4_forward(
    w: Tensor, u: Tensor, k: Tensor, v: Tensor, state: Tensor, save: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """As `reference.wkv4_forward`; the checkpoints are empty unless `save`."""
    batch, length, channels = k.shape
    w, u, k, v, state = (x.contiguous() for x in (w, u, k, v, state))
    y = torch.empty(v.shape, dtype=v.dtype)
    out = torch.empty(state.shape)
    checkpoints = torch.empty(batch, -(-length // CHUNK) if save else 0, 3, channels)
    _call("wkv4_forward", k, w, u, k, v, state, y, out, checkpoints if save else None)
    return y, out, checkpoints


def wkv4_backward(
    w: Tensor,
    u: Tensor,
    k: Tensor,
    v: Tensor,
    checkpoints: Tensor,
    adjoint: Tensor,
    grad_y: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As `reference.wkv4_backward`."""
    grad_y = grad_y.to(v.dtype)
    inputs = tuple(x.contiguous() for x in (w, u, k, v, checkpoints, adjoint, grad_y))
    gw, gu, before = torch.empty(w.shape), torch.empty(u.shape), torch.empty(adjoint.shape)
    gk, gv = torch.empty(k.shape, dtype=k.dtype), torch.empty(v.shape, dtype=v.dtype)
    _call("wkv4_backward", k, *inputs, gw, gu, gk, gv, before)
    return gw, gu, gk, gv, before


def _call(name: str, k: Tensor, *tensors: Tensor | None) -> None:
    """Call the kernel `name` of k's dtype on the data of `tensors`."""
    function = getattr(load(), f"{name}_{_NAMES[k.dtype]}")
    pointers = (None if x is None else x.data_ptr() for x in tensors)
    function(*k.shape, *pointers, torch.get_num_threads())
