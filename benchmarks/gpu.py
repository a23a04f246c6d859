"""The GPU part of `benchmarks/kernels.py`: bandwidth, the official kernel, a million tokens; and
the elementwise formulas, first against fp64, then against eager torch and `torch.compile`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.elementwise import FORMULAS, WAYS, inputs_of, ways
from benchmarks.harness import Row, in_turns, timed_on_gpu
from benchmarks.operators import ABOVE, largest_error, passes
from models.ops import backends
from models.ops.wkv import wkv4

gpu_times = partial(in_turns, warmup=3, clocked=timed_on_gpu)
"""Seconds of each piece by CUDA events, with a cold cache."""
GOALS = {
    "forward, B=1, T=65536, C=768, minimal bytes over copy bandwidth": ">= 75 %",
    "forward, B=8, T=4096, C=4096, minimal bytes over copy bandwidth": ">= 75 %",
    "against the official kernel, forward + backward, B=1, T=65536, C=768": ">= 30x",
    "against the official kernel, forward + backward, B=8, T=4096, C=4096": ">= 2x",
    "forward, B=1, T=1048576, C=768": "<= 2 ms",
    "forward + backward, B=1, T=1048576, C=768": "<= 6 ms",
}


def inputs(B: int, T: int, C: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """w from -1e-4 to -20 over the channels, u, k, v."""
    w = -torch.logspace(-4, 1.3, C)[torch.randperm(C)]
    return [w, torch.randn(C), *(torch.randn(B, T, C).to(dtype) for _ in range(2))]


def wkv4_pass(given: list[Tensor], backend: str, backward: bool) -> Callable[[], Any]:
    """A call of the operator; with `backward` and the gradients of w, u, k, v."""
    leaves = [x.detach().requires_grad_(backward) for x in given]
    return passes(lambda w, u, k, v: wkv4(w, u, k, v, backend=backend)[0], leaves, backward)


def gpu_rows(rounds: int, official: Path | None) -> Iterator[Row]:
    """Bandwidth, the official kernel, a million tokens; bf16 in and out, cold cache."""
    if backends.report()["cuda"] != "ready":
        yield from (Row(f"GPU, {what}", ("not measured", goal)) for what, goal in GOALS.items())
        return
    source = torch.empty(1 << 29, dtype=torch.bfloat16, device="cuda")
    bandwidth = 2 * source.nbytes / gpu_times({"copy": source.clone}, rounds)["copy"].median
    del source
    yield Row("GPU, copy bandwidth", (f"{bandwidth / 1e12:.2f} TB/s",))
    for what, goal in GOALS.items():
        B, T, C = (int(x) for x in re.findall(r"[BTC]=(\d+)", what))
        given = [x.cuda() for x in inputs(B, T, C, torch.bfloat16)]
        pieces = {"ours": wkv4_pass(given, "cuda", "backward" in what)}
        if "official" in what and (problem := add_official(pieces, given, official)):
            yield Row(f"GPU, {what}", (f"not measured: {problem}", goal))
            continue
        seconds = gpu_times(pieces, rounds)
        ours = seconds["ours"].median
        measured = f"{1e3 * ours:.3f} ms"
        if "official" in seconds:
            measured = f"{seconds['official'].median / ours:.1f}x ({measured})"
        elif "bandwidth" in what:
            measured = f"{3 * given[2].nbytes / ours / bandwidth:.0%} ({measured})"
        yield Row(f"GPU, {what}", (measured, goal))


def add_official(
    pieces: dict[str, Callable[[], Any]], given: list[Tensor], folder: Path | None
) -> str | None:
    """Add RWKV-LM's kernel, built by nvcc for this length; or say why not."""
    if folder is None:
        return "no --official"
    w, u, k, v = given
    B, T, C = k.shape
    files = [str(folder / name) for name in ("wkv_op_bf16.cpp", "wkv_cuda_bf16.cu")]
    flags = ["--maxrregcount=60", "--use_fast_math", "-O3", f"-DTmax={T}"]
    try:
        from torch.utils.cpp_extension import load

        kernel = load(f"wkv_{T}_bf16", files, extra_cuda_cflags=flags)
    except Exception as error:  # no nvcc, no ninja, no such folder: all end here
        return str(error).strip().splitlines()[0]
    u = u.bfloat16()
    y, grad, gk, gv = (torch.empty_like(k) for _ in range(4))
    gw, gu = (torch.empty(B, C, dtype=k.dtype, device="cuda") for _ in range(2))

    def run() -> None:
        kernel.forward(B, T, C, w, u, k, v, y)
        kernel.backward(B, T, C, w, u, k, v, y, grad, gw, gu, gk, gv)

    pieces["official"] = run
    return None


# ---------------------------------------------------------------- elementwise formulas

LIMITS = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}
"""Largest errors against fp64, of values and gradients."""
CHECKED = ((517, 192), (130, 1024))
TIMED = (32768, 1024)
"""Tokens and channels."""


def elementwise_rows(rounds: int) -> Iterator[Row]:
    """Errors of every formula in every dtype; then, in bf16 and forward and backward, its time."""
    if backends.report()["cuda"] != "ready":
        yield Row("GPU, elementwise formulas", ("not measured", ""))
        return
    for name in FORMULAS:
        for dtype, limit in LIMITS.items():
            worst = max(formula_error(name, *shape, dtype) for shape in CHECKED)
            mark = ABOVE if worst > limit else ""
            figures = (f"error {worst:.1e}{mark}", f"<= {limit:g}")
            yield Row(f"GPU, {name}, {str(dtype).removeprefix('torch.')}", figures)
    for name in FORMULAS:
        torch.compiler.reset()
        given = inputs_of(name, *TIMED, torch.bfloat16, "cuda")
        seconds = gpu_times(ways(name, given, backward=True), rounds)
        ours = seconds["native"].median
        ratios = ", ".join(f"{way} {seconds[way].median / ours:.2f}x" for way in WAYS[1:])
        yield Row(f"GPU, {name}, forward + backward", (f"{1e6 * ours:.0f} us, {ratios}", ""))


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
