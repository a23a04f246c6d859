"""The GPU part of `benchmarks/kernels.py`: bandwidth, the official kernel, a million tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import Row, in_turns, timed_on_gpu
from benchmarks.operators import passes
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
