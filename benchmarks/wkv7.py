"""The WKV-7 part of `benchmarks/kernels.py`, and alone: `python -m benchmarks.wkv7`.

Checks the CUDA kernels against fp64 first, then times them against the usual sequential kernel
(`cuda/wkv7/baseline.cu`). Alone it needs nothing but torch and cuda-core.
"""

from __future__ import annotations

from scripts.cli.launch import script

if __name__ == "__main__":
    script("benchmarks.wkv7:main")


import argparse
import re
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.gpu import Row, gpu_times
from models.ops import backends
from models.ops.nvrtc import CudaLibrary
from models.ops.wkv import wkv7

SIZE = 64
TOLERANCES = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.5e-2}
CHECKED = ((1, 1, 1), (2, 300, 3), (4, 1000, 16), (1, 20_000, 2))
NAMES = ("y", "state", "r", "w", "k", "v", "a", "b", "state before")
GOALS = {
    "forward, B=8, T=4096, H=64": "",
    "forward + backward, B=8, T=4096, H=64": "<= 8 ms",
    "forward, B=1, T=65536, H=12": ">= 4x",
    "forward + backward, B=1, T=65536, H=12": ">= 4x",
    "forward, B=8, T=1, H=64": "",
}
yardstick = CudaLibrary(
    "wkv7/baseline.cu",
    ("common/elements.h",),
    ("wkv7_yardstick_forward", "wkv7_yardstick_backward"),
)


def main() -> None:
    """Print what `check_rows` and `time_rows` find."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10, help="times of each piece")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    for row in (*check_rows(), *time_rows(arguments.rounds)):
        print(" | ".join(row), flush=True)


def inputs(B: int, T: int, H: int, dtype: torch.dtype, device: str) -> list[Tensor]:
    """What an RWKV-7 layer passes: r, w, k, v, a, b and a state."""
    r, k, v, key, rate, w = (torch.randn(B, T, H, SIZE, device=device) for _ in range(6))
    key = F.normalize(key, dim=-1)
    w = -0.6065306597 * torch.sigmoid(3 * w - 1)
    state = torch.randn(B, H, SIZE, SIZE, device=device)
    r, k, v, a, b = (x.to(dtype) for x in (r, k / 8, v, -key, key * rate.sigmoid()))
    return [r, w, k, v, a, b, state]


def call(given: list[Tensor], backend: str) -> tuple[Tensor, Tensor]:
    """wkv7 of the seven tensors of `inputs`."""
    r, w, k, v, a, b, state = given
    return wkv7(r, w, k, v, a, b, state, backend)


# ---------------------------------------------------------------- checks


def check_rows() -> list[Row]:
    """The worst of all results' errors against fp64, for every shape and dtype."""
    if backends.report()["cuda"] != "ready":
        return [Row("WKV-7 on a GPU, errors", "not measured", "")]
    error = Usual(inputs(2, 64, 2, torch.bfloat16, "cuda"), both=True).error()
    rows = [Row("WKV-7, error of the usual kernel, bfloat16", f"{error:.1e}", "")]
    for shape in CHECKED:
        for dtype, tolerance in TOLERANCES.items():
            what = f"WKV-7, error, B={shape[0]}, T={shape[1]}, H={shape[2]}, {dtype}"
            rows.append(Row(what, worst(*shape, dtype), f"<= {tolerance:g}"))
    return rows


def worst(B: int, T: int, H: int, dtype: torch.dtype) -> str:
    """Largest error of any result over its largest true value, and which result it is."""
    given = inputs(B, T, H, dtype, "cuda")
    weights = [torch.randn_like(given[0]), torch.randn_like(given[-1])]
    true = results(given, weights, "reference", torch.float64)
    torch.use_deterministic_algorithms(True)  # fills new tensors with NaN
    got = results(given, weights, "cuda", None)
    torch.use_deterministic_algorithms(False)
    errors = {
        name: float((x - y).abs().max() / y.abs().max().clamp(min=0.1))
        if x.isfinite().all()
        else float("inf")
        for name, x, y in zip(NAMES, got, true, strict=True)
    }
    name = max(errors, key=lambda name: errors[name])
    verdict = "" if errors[name] <= TOLERANCES[dtype] else " **above the limit**"
    return f"{errors[name]:.1e} ({name}){verdict}"


def results(
    given: list[Tensor], weights: list[Tensor], backend: str, dtype: torch.dtype | None
) -> list[Tensor]:
    """y, the state and all gradients, in fp64; computed in `dtype`, if not None."""
    leaves = [x.to(dtype or x.dtype, copy=True).requires_grad_() for x in given]
    out = call(leaves, backend)
    grads = torch.autograd.grad(
        out, leaves, [x.to(y.dtype) for x, y in zip(weights, out, strict=True)]
    )
    return [x.detach().double() for x in (*out, *grads)]


# ---------------------------------------------------------------- times


def time_rows(rounds: int) -> list[Row]:
    """bf16, cold cache; ours, and how many times as long the yardstick takes."""
    if backends.report()["cuda"] != "ready":
        return [
            Row(f"WKV-7 on a GPU, {what}", "not measured", goal) for what, goal in GOALS.items()
        ]
    rows = []
    for what, goal in GOALS.items():
        B, T, H = (int(x) for x in re.findall(r"[BTH]=(\d+)", what))
        given = inputs(B, T, H, torch.bfloat16, "cuda")
        both = "backward" in what
        pieces = {"ours": training(given) if both else forward(given)}
        if T % 16 == 0:
            pieces["yardstick"] = Usual(given, both)
        medians = gpu_times(pieces, rounds)
        measured = f"{1e3 * medians['ours']:.3f} ms"
        if "yardstick" in medians:
            ratio = medians["yardstick"] / medians["ours"]
            measured = (
                f"{ratio:.1f}x ({measured}, usual kernel {1e3 * medians['yardstick']:.2f} ms)"
            )
        rows.append(Row(f"WKV-7 on a GPU, {what}", measured, goal))
    return rows


def forward(given: list[Tensor]) -> Callable[[], object]:
    """A call without gradients."""
    return lambda: call(given, "cuda")


def training(given: list[Tensor]) -> Callable[[], object]:
    """A call and all gradients."""
    leaves = [x.detach().requires_grad_() for x in given]
    grad = torch.randn_like(given[0])
    return lambda: torch.autograd.grad(call(leaves, "cuda")[0], leaves, grad)


class Usual:
    """The yardstick, from a state of zeros, without gradients of states; T is a multiple of 16."""

    def __init__(self, given: list[Tensor], both: bool) -> None:
        *self.inputs, state = given
        self.start = torch.zeros_like(state)
        B, T, H, N = self.inputs[0].shape
        self.y, self.grad_y = torch.empty_like(given[0]), torch.randn_like(given[0])
        self.grads = [torch.empty_like(x) for x in self.inputs]
        self.both = both
        self.saved: list[Tensor | None] = [None, None]
        if both:
            states = torch.empty(B, H, T // 16, N, N, device="cuda")
            self.saved = [states, torch.empty_like(self.inputs[1])]

    def __call__(self) -> None:
        self._launch("forward", *self.inputs, self.y, *self.saved)
        if self.both:
            self._launch("backward", *self.inputs, self.grad_y, *self.saved, *self.grads)

    def _launch(self, name: str, *tensors: Tensor | None) -> None:
        B, T, H, N = self.y.shape
        yardstick.launch(f"wkv7_yardstick_{name}", self.y.device, (H, B), N, T, H, *tensors)

    def error(self) -> float:
        """Largest error of y and the gradients over their largest true value."""
        self()
        leaves = [x.double().requires_grad_() for x in self.inputs]
        y, _ = call([*leaves, self.start.double()], "reference")
        true = [y.detach(), *torch.autograd.grad(y, leaves, self.grad_y.double())]
        return max(
            float((x - t).abs().max() / t.abs().max())
            for x, t in zip([self.y, *self.grads], true, strict=True)
        )
