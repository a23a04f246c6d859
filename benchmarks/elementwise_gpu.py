"""The elementwise formulas on a GPU, for `benchmarks/kernels.py` and `benchmarks/gpu.py`: first
against fp64, then against eager torch and `torch.compile`."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from benchmarks.elementwise import FORMULAS, WAYS, inputs_of, ways
from benchmarks.harness import Row
from benchmarks.operators import ABOVE, largest_error, passes
from benchmarks.wkv4_gpu import gpu_times
from models.ops import backends

LIMITS = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}
"""Largest errors against fp64, of values and gradients."""
CHECKED = ((517, 192), (130, 1024))
TIMED = (32768, 1024)
"""Tokens and channels."""


def elementwise_rows(rounds: int) -> Iterator[Row]:
    """Errors of every formula in every dtype, then its time."""
    if backends.report()["cuda"] != "ready":
        yield Row("GPU, elementwise formulas", ("not measured", ""))
        return
    for row in itertools.chain(error_rows(), time_rows(rounds)):
        yield Row(f"GPU, {row.what}", row.figures)


def error_rows(shapes: Iterable[tuple[int, int]] = CHECKED, device: str = "cuda") -> Iterator[Row]:
    """The largest error of every formula in every dtype, at (T, C) of `shapes`, and its limit."""
    for name in FORMULAS:
        for dtype, limit in LIMITS.items():
            worst = max(formula_error(name, *shape, dtype, device) for shape in shapes)
            mark = ABOVE if worst > limit else ""
            figures = (f"error {worst:.1e}{mark}", f"<= {limit:g}")
            yield Row(f"{name}, {str(dtype).removeprefix('torch.')}", figures)


def time_rows(rounds: int) -> Iterator[Row]:
    """Forward and backward pass of every formula in bf16, and what the other ways take of it."""
    for name in FORMULAS:
        torch.compiler.reset()
        given = inputs_of(name, *TIMED, torch.bfloat16, "cuda")
        seconds = gpu_times(ways(name, given, backward=True), rounds)
        ours = seconds["native"].median
        ratios = ", ".join(f"{way} {seconds[way].median / ours:.2f}x" for way in WAYS[1:])
        yield Row(f"{name}, forward + backward", (f"{1e6 * ours:.0f} us, {ratios}", ""))


def formula_error(name: str, T: int, C: int, dtype: torch.dtype, device: str = "cuda") -> float:
    """Largest error of a formula and its gradients against its text in fp64."""
    native, plain, _ = FORMULAS[name]
    given = inputs_of(name, T, C, dtype, device)
    true = [
        x.detach().double().requires_grad_(x.requires_grad) if isinstance(x, Tensor) else x
        for x in given
    ]
    found = passes(native, given, backward=True)()
    values = native(*given), plain(*true)
    out, want = ([x] if isinstance(x, Tensor) else [*x] for x in values)
    leaves = [x for x in true if isinstance(x, Tensor) and x.requires_grad]
    grads = torch.autograd.grad(want, leaves, [x.detach().double() for x in out])
    pairs = ([*out, *found], [*want, *grads])
    got, exact = ([x.detach().double().cpu() for x in side] for side in pairs)
    return largest_error(got, exact)[0]
