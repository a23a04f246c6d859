"""The highest rate of a device, as far as a matrix product shows it: what its use is a share of."""

from __future__ import annotations

import time

import torch

PRODUCT = {"cpu": 1024, "cuda": 8192}  # rows of the square matrices
PRODUCTS = 5  # after one that is not timed


def highest_rate(device: str, dtype: torch.dtype) -> float:
    """Operations per second of the fastest of a few matrix products.

    Draws from torch's global random generators.
    """
    size = PRODUCT[device]
    a = torch.rand(size, size, device=device).to(dtype)
    best = 0.0
    for index in range(PRODUCTS + 1):
        start = time.perf_counter()
        b = a @ a
        b[0, 0].item()  # waits for the device
        if index:
            best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best
