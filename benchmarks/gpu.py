"""The GPU part of `benchmarks/kernels.py`: bandwidth, the official kernel, a million tokens."""

from __future__ import annotations

import random
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from models.ops import backends
from models.ops.wkv import wkv4

FLUSH_BYTES = 256 << 20  # written before each time, so that nothing is found in the cache


class Row(NamedTuple):
    """One line of the record."""

    what: str
    measured: str
    goal: str


def inputs(B: int, T: int, C: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """w from -1e-4 to -20 over the channels, u, k, v."""
    w = -torch.logspace(-4, 1.3, C)[torch.randperm(C)]
    return [w, torch.randn(C), *(torch.randn(B, T, C).to(dtype) for _ in range(2))]


def forward(given: list[Tensor], backend: str) -> Callable[[], object]:
    """A call without gradients."""
    w, u, k, v = (x.detach() for x in given)
    return lambda: wkv4(w, u, k, v, backend=backend)


def training(given: list[Tensor], backend: str) -> Callable[[], object]:
    """A call and the gradients of w, u, k, v."""
    leaves = [x.detach().requires_grad_() for x in given]
    w, u, k, v = leaves
    grad = torch.randn_like(k)
    return lambda: torch.autograd.grad(wkv4(w, u, k, v, backend=backend)[0], leaves, grad)


GPU_GOALS = {
    "forward, B=1, T=65536, C=768, minimal bytes over copy bandwidth": ">= 75 %",
    "forward, B=8, T=4096, C=4096, minimal bytes over copy bandwidth": ">= 75 %",
    "against the official kernel, forward + backward, B=1, T=65536, C=768": ">= 30x",
    "against the official kernel, forward + backward, B=8, T=4096, C=4096": ">= 2x",
    "forward, B=1, T=1048576, C=768": "<= 2 ms",
    "forward + backward, B=1, T=1048576, C=768": "<= 6 ms",
}


def gpu_rows(rounds: int, official: Path | None) -> list[Row]:
    """Bandwidth, the official kernel, a million tokens; bf16 in and out, cold cache."""
    if backends.report()["cuda"] != "ready":
        return [Row(f"GPU, {what}", "not measured", goal) for what, goal in GPU_GOALS.items()]
    source = torch.empty(1 << 29, dtype=torch.bfloat16, device="cuda")
    copied = gpu_times({"copy": source.clone}, rounds)["copy"]
    bandwidth = 2 * source.nbytes / copied
    del source
    rows = [Row("GPU, copy bandwidth", f"{bandwidth / 1e12:.2f} TB/s", "")]
    for what, goal in GPU_GOALS.items():
        B, T, C = (int(x) for x in re.findall(r"[BTC]=(\d+)", what))
        given = [x.cuda() for x in inputs(B, T, C, torch.bfloat16)]
        both = "backward" in what
        pieces = {"ours": (training if both else forward)(given, "cuda")}
        if "official" in what:
            problem = add_official(pieces, given, official)
            if problem:
                rows.append(Row(f"GPU, {what}", f"not measured: {problem}", goal))
                continue
        medians = gpu_times(pieces, rounds)
        ms = f"{1e3 * medians['ours']:.3f} ms"
        if "official" in medians:
            ms = f"{medians['official'] / medians['ours']:.1f}x ({ms})"
        elif "bandwidth" in what:
            ms = f"{3 * given[2].nbytes / medians['ours'] / bandwidth:.0%} ({ms})"
        rows.append(Row(f"GPU, {what}", ms, goal))
    return rows


def gpu_times(pieces: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds by CUDA events, in random order, the cache flushed before each."""
    flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda")
    times: dict[str, list[float]] = {name: [] for name in pieces}
    for number in range(rounds + 3):
        for name in random.sample(list(pieces), len(pieces)):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            flush.zero_()
            start.record()
            pieces[name]()
            end.record()
            end.synchronize()
            if number >= 3:
                times[name].append(start.elapsed_time(end) / 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def add_official(
    pieces: dict[str, Callable[[], object]], given: list[Tensor], folder: Path | None
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
