"""How far the results of an operator are from the true ones."""

from __future__ import annotations

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
