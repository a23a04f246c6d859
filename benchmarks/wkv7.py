"""The WKV-7 part of `benchmarks/kernels.py`, and alone: `python -m benchmarks.wkv7`.

Checks the CUDA kernels against fp64 first, then times them against the usual sequential kernel
(`cuda/wkv7/baseline.cu`). Alone it needs nothing but torch and cuda-core.
"""

from __future__ import annotations

from scripts.cli.launch import script

if __name__ == "__main__":
    script("benchmarks.wkv7:main")


import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.harness import Row, parse, parser, publish, table
from benchmarks.operators import ABOVE, largest_error, passes, poisoned, results
from benchmarks.wkv4_gpu import gpu_times
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
    arguments = parse(parser(__doc__, rounds=10))
    rows = itertools.chain(check_rows(), time_rows(arguments.rounds))
    publish("WKV-7 on a GPU", table(("what", "measured", "goal"), rows), arguments=arguments)


def inputs(B: int, T: int, H: int, dtype: torch.dtype, device: str) -> list[Tensor]:
    """What an RWKV-7 layer passes: r, w, k, v, a, b and a state."""
    r, k, v, key, rate, w = (torch.randn(B, T, H, SIZE, device=device) for _ in range(6))
    key = F.normalize(key, dim=-1)
    w = -0.6065306597 * torch.sigmoid(3 * w - 1)
    state = torch.randn(B, H, SIZE, SIZE, device=device)
    r, k, v, a, b = (x.to(dtype) for x in (r, k / 8, v, -key, key * rate.sigmoid()))
    return [r, w, k, v, a, b, state]


def call(backend: str) -> Callable[..., tuple[Tensor, Tensor]]:
    """wkv7 of the seven tensors of `inputs`."""
    return lambda r, w, k, v, a, b, state: wkv7(r, w, k, v, a, b, state, backend)


def check_rows() -> Iterator[Row]:
    """The worst of all results' errors against fp64, for every shape and dtype."""
    if backends.report()["cuda"] != "ready":
        yield Row("WKV-7 on a GPU, errors", ("not measured",))
        return
    error = Usual(inputs(2, 64, 2, torch.bfloat16, "cuda"), both=True).error()
    yield Row("WKV-7, error of the usual kernel, bfloat16", (f"{error:.1e}",))
    for shape, (dtype, tolerance) in itertools.product(CHECKED, TOLERANCES.items()):
        what = f"WKV-7, error, B={shape[0]}, T={shape[1]}, H={shape[2]}, {dtype}"
        yield Row(what, (worst(*shape, dtype), f"<= {tolerance:g}"))


def worst(B: int, T: int, H: int, dtype: torch.dtype) -> str:
    """Largest error of any result over its largest true value, and which result it is."""
    given = inputs(B, T, H, dtype, "cuda")
    weights = [torch.randn_like(given[0]), torch.randn_like(given[-1])]
    true = results(call("reference"), given, weights, torch.float64, "cuda")
    with poisoned():
        got = results(call("cuda"), given, weights, None, "cuda")
    error, place = largest_error(got, true)
    return f"{error:.1e} ({NAMES[place]}){'' if error <= TOLERANCES[dtype] else ABOVE}"


def time_rows(rounds: int) -> Iterator[Row]:
    """bf16, cold cache; ours, and how many times as long the yardstick takes."""
    for what, goal in GOALS.items():
        measured = "not measured"
        if backends.report()["cuda"] == "ready":
            measured = measure(what, rounds)
        yield Row(f"WKV-7 on a GPU, {what}", (measured, goal))


def measure(what: str, rounds: int) -> str:
    """The time of the case that `what` names."""
    B, T, H = (int(x) for x in re.findall(r"[BTH]=(\d+)", what))
    given, both = inputs(B, T, H, torch.bfloat16, "cuda"), "backward" in what
    leaves = [x.detach().requires_grad_(both) for x in given]
    pieces: dict[str, Callable[[], Any]] = {
        "ours": passes(lambda *leaves: call("cuda")(*leaves)[0], leaves, both)
    }
    if T % 16 == 0:
        pieces["yardstick"] = Usual(given, both)
    seconds = gpu_times(pieces, rounds)
    ours = seconds["ours"].median
    if "yardstick" not in seconds:
        return f"{1e3 * ours:.3f} ms"
    usual = seconds["yardstick"].median
    return f"{usual / ours:.1f}x ({1e3 * ours:.3f} ms, usual kernel {1e3 * usual:.2f} ms)"


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
        y, _ = call("reference")(*leaves, self.start.double())
        true = [y.detach(), *torch.autograd.grad(y, leaves, self.grad_y.double())]
        return max(
            float((x - t).abs().max() / t.abs().max())
            for x, t in zip([self.y, *self.grads], true, strict=True)
        )
