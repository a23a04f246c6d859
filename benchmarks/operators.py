"""One pass of an operator, to be timed, and its results, to be held against the true ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

ABOVE = " **above the limit**"


def passes(function: Callable[..., Any], given: Sequence[Any], backward: bool) -> Callable[[], Any]:
    """A call of the function: without gradients, or with those of all floating tensors given.

    Each result serves as its own gradient, which has the right shape and costs nothing.
    """
    if not backward:
        return torch.no_grad()(lambda: function(*given))
    leaves = [x for x in given if isinstance(x, Tensor) and x.requires_grad]

    def both() -> Any:
        results = function(*given)
        results = results if isinstance(results, tuple) else (results,)
        return torch.autograd.grad(results, leaves, [x.detach() for x in results])

    return both


def results(
    function: Callable[..., Any],
    given: Sequence[Tensor],
    weights: Sequence[Tensor],
    dtype: torch.dtype | None,
    device: str,
) -> list[Tensor]:
    """What the function returns, and all gradients for `weights`, in fp64 on the CPU.

    They are computed in `dtype`, or in that of each tensor if it is None.
    """
    leaves = [x.to(device, dtype or x.dtype, copy=True).requires_grad_() for x in given]
    out = function(*leaves)
    grads = torch.autograd.grad(out, leaves, [w.to(y) for w, y in zip(weights, out, strict=True)])
    return [x.detach().double().cpu() for x in (*out, *grads)]


@contextmanager
def poisoned() -> Iterator[None]:
    """New tensors are filled with NaN, so that what a kernel leaves out shows."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def largest_error(got: Sequence[Tensor], true: Sequence[Tensor]) -> tuple[float, int]:
    """The largest error of any result over its largest true value (0.1 if that is smaller), and
    which result it is; infinite where one is not finite."""
    errors = [
        float((x - y).abs().max() / y.abs().max().clamp(min=0.1))
        if x.isfinite().all()
        else float("inf")
        for x, y in zip(got, true, strict=True)
    ]
    worst = max(errors)
    return worst, errors.index(worst)
