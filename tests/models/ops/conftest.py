"""Every kernel test runs on one thread and on poisoned memory, unless it asks otherwise."""

from collections.abc import Callable, Iterator

import pytest
import torch

from tests.emulator.driver import gpu

__all__ = ["gpu"]


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """New tensors are full of NaN, so a kernel that skips an element shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of threads for one test; 1 where a test does not care."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch.set_num_threads
    torch.set_num_threads(before)
