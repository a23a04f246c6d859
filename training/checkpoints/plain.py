"""What may be looked at: before a checkpoint is judged, it must be plain values and tensors.

What a file holds may be anything that its format can say: tensors larger than the file, values that
lie in each other without end.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

DEEPEST = 20  # dicts and lists in each other; ours are 7 deep


class Unfit(ValueError):
    """What of a checkpoint is missing or wrong, in a few words."""


def check_plain(content: Any, size: int) -> None:
    """Raise `Unfit` unless this is a tree, not too deep, of plain values and of tensors that lie in
    a file of `size` bytes: one that is expanded could fill memory."""
    held = 0
    level = [content]
    for _ in range(DEEPEST):
        below: list[Any] = []
        for value in level:
            if isinstance(value, Tensor):
                whole = value.layout == torch.strided and value.device.type == "cpu"
                if not whole or value.is_quantized or type(value) is not Tensor:
                    raise Unfit("a tensor of a kind that no training has")
                held += value.numel() * value.element_size()
            elif isinstance(value, dict):
                if not all(type(key) in (str, int) for key in value):
                    raise Unfit("a name that is no text")
                below += value.values()
            elif isinstance(value, (list, tuple)):
                below += value
            elif value is not None and type(value) not in (bool, int, float, str):
                raise Unfit(f"a value of the type {type(value).__name__}")
        if not below:
            break
        level = below
    else:
        raise Unfit(f"nested more than {DEEPEST} deep")
    if held > 4 * size:  # the same tensor may have several names
        raise Unfit(f"tensors of {held:,} bytes in a file of {size:,}")
