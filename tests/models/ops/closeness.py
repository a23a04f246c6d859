"""How far the results of an operator are from the true ones, and the same tensors elsewhere."""

from __future__ import annotations

import torch
from torch import Tensor


def errors(got: dict[str, Tensor], want: dict[str, Tensor]) -> dict[str, float]:
    """Largest difference of each true result over its largest value; all must be finite.

    Everything that goes in is of order 1, so a result smaller than 0.1 owes it to cancellation
    (or underflow) and is held to 0.1 instead. The results must have the same names.
    """
    assert got.keys() == want.keys()
    assert all(x.isfinite().all() for x in got.values()), {
        name: int((~x.isfinite()).sum()) for name, x in got.items()
    }
    return {
        name: float((got[name].double() - true).abs().max() / true.abs().max().clamp(min=0.1))
        for name, true in want.items()
    }


def assert_close(got: dict[str, Tensor], want: dict[str, Tensor], tolerance: float) -> None:
    """Fail naming every result that is off by more than `tolerance`, relative."""
    wrong = {name: e for name, e in errors(got, want).items() if not e <= tolerance}
    assert not wrong, wrong


def moved(x: Tensor) -> Tensor:
    """x, beginning one element behind where tensors begin."""
    return torch.cat([x.new_zeros(1), x.flatten()])[1:].view_as(x)


def turned(x: Tensor) -> Tensor:
    """x with its first two dimensions the other way round in memory."""
    return x.transpose(0, 1).contiguous().transpose(0, 1) if x.dim() > 1 else x
