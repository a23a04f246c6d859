"""How a failed allocation is recognised."""

from __future__ import annotations

import torch

SIGNS = ("can't allocate memory", "out of memory", "bad_alloc", "ALLOC_FAILED")
"""Parts of the messages with which PyTorch, C++ and CUDA's libraries report one."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception reports that an allocation has failed."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return any(sign in str(error) for sign in SIGNS)
