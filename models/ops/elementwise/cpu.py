"""The C++ kernels of `cuda/cpu/elementwise.cpp` and `cuda/cpu/head_norms.cpp`."""

from __future__ import annotations

from ctypes import c_int64, c_void_p

import torch
from torch import Tensor

from models.ops.cpu_library import CpuLibrary, allocate_like
from models.ops.elementwise.fused import Kernel

library = CpuLibrary(
    "pointwise",
    ["cpu/elementwise.cpp", "cpu/head_norms.cpp"],
    ["cpu/rows.h", "cpu/vec.h", "common/elements.h"],
    {"rotate": [*[c_int64] * 6, *[c_void_p] * 4]},
)
gate = Kernel(library, "gate", "r x", like="x", trailing=0)
squared_relu = Kernel(library, "squared_relu", "x", trailing=0)
swiglu = Kernel(library, "swiglu", "x", trailing=1, halves=True)
rms_norm = Kernel(library, "rms_norm", "x weight", weights="weight", trailing=1, constant=True)
token_shift_mix = Kernel(
    library, "token_shift_mix", "z previous mu", weights="mu", trailing=2, count="mu", array=True
)
dynamic_mix = Kernel(
    library, "dynamic_mix", "z previous mu change", weights="mu", trailing=2, count=5, array=True
)
log_decay = Kernel(library, "log_decay", "e w0", weights="w0", trailing=1, wide=True)
value_residual = Kernel(library, "value_residual", "v first e v0", weights="v0", trailing=1)
delta_keys = Kernel(
    library, "delta_keys", "k e a0 k_k k_a", weights="a0 k_k k_a", trailing=2, count=3
)
gated_head_norm = Kernel(
    library,
    "gated_head_norm",
    "y g weight bias",
    weights="weight bias",
    trailing=2,
    like="g",
    constant=True,
)
bonus_head_norm = Kernel(
    library,
    "bonus_head_norm",
    "y r k v g r_k weight bias",
    weights="r_k weight bias",
    trailing=2,
    like="g",
    constant=True,
)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, direction: int) -> Tensor:
    """Compute `rotation.rotate`; direction -1 turns back. x may be a slice of a wider array."""
    batch, length, heads, size = x.shape
    rows_alike = x.stride(2) == size and x.stride(0) == length * x.stride(1)
    if x.stride(3) != 1 or not rows_alike:
        x = x.contiguous()
    out = allocate_like(x)
    cos, sin = cos.contiguous(), sin.contiguous()
    library.function("rotate", x.dtype)(
        batch * length, length, heads, size // 2, x.stride(1), direction,
        x.data_ptr(), cos.data_ptr(), sin.data_ptr(), out.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return out
