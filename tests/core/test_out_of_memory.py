"""A failed allocation is recognised, whoever reports it."""

from __future__ import annotations

import pytest
import torch

from core.out_of_memory import is_out_of_memory


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("anything"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
    ],
)
def test_an_allocation_has_failed(error: Exception) -> None:
    assert is_out_of_memory(error)


def test_other_failures_are_none_of_memory() -> None:
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
