"""The formulas of `cuda/elementwise/` on a CPU."""

from __future__ import annotations

import struct
from ctypes import c_int64
from typing import Any

import torch
from torch import Tensor

from models.ops.cpu_library import CpuLibrary
from models.ops.elementwise.kernels import MOST_FIELDS, Pass

library = CpuLibrary(
    "elementwise",
    ["elementwise/pointwise.cpp", "elementwise/norms.cpp"],
    [
        "elementwise/cpu.h",
        "elementwise/heads.h",
        "elementwise/lanes.h",
        "elementwise/norms.h",
        "elementwise/pointwise.h",
        "elementwise/shift.h",
        "cpu/rows.h",
        "cpu/ways.h",
        "cpu/vec.h",
        "common/elements.h",
    ],
    {},
)
_Fields = c_int64 * MOST_FIELDS
_functions: dict[str, Any] = {}


def run(one: Pass) -> None:
    """Compute a pass on all threads."""
    name = one.function
    function = _functions.get(name)
    if function is None:
        function = _functions[name] = getattr(library.load(), name)
    function(_Fields(*one.sizes, *map(field, one.fields)), torch.get_num_threads())


def field(value: Any) -> int:
    """A tensor's address, a number's bits, or 0 for what is not there."""
    if isinstance(value, Tensor):
        return value.data_ptr()
    if isinstance(value, float):
        return bits_of(value)
    return int(value or 0)


def bits_of(number: float) -> int:
    """A number as 64 bits."""
    return int(struct.unpack("<q", struct.pack("<d", number))[0])
