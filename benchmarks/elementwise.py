"""Do the native elementwise kernels beat `torch.compile`? `python benchmarks/elementwise.py`.

Every fused formula on a CPU in fp32, batch 1: the C++ kernel, the formula in eager torch, and the
formula compiled by Inductor for this one shape, in turns. Then the first call, which builds or
loads what it needs: in a fresh process, first with an empty cache, then with what that left there.
"""

from __future__ import annotations

from scripts.cli.launch import script

if __name__ == "__main__":
    script("benchmarks.elementwise:main")

import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch

from benchmarks.harness import Row, Samples, interleave, parse, parser, publish, table, timed
from benchmarks.operators import passes
from models import rwkv5, rwkv6, rwkv7, transformer
from models.ops import build
from models.ops.elementwise import gates, norms, rotation, shift

HEAD, EPS = 64, 1e-5
WAYS = ("native", "eager", "compiled")
MIN_SECONDS = 2e-3
"""Calls of a piece are repeated until they take as long together."""
FUSED: dict[Any, str] = {
    gates.gate: "x x",
    gates.squared_relu: "x",
    shift._token_shift_mix: "x previous mu share",
    norms.layer_norm: "x c c eps",
    norms.rms_norm: "x c eps",
    norms.add_layer_norm: "x x c c eps",
    norms.add_rms_norm: "x x c eps",
    transformer.swiglu: "two",
    rwkv5.gated_head_norm: "heads x c c eps",
    rwkv6.dynamic_mix: "x previous mu change",
    rwkv7.log_decay: "x c",
    rwkv7.value_residual: "x x x c",
    rwkv7.delta_keys: "heads heads head head head",
    rwkv7.bonus_head_norm: "heads heads heads heads x head c c eps",
}
FORMULAS: dict[str, tuple[Any, Callable[..., Any], str]] = {
    **{fused.__name__: (fused, fused.plain, kinds) for fused, kinds in FUSED.items()},
    "rotate": (rotation.rotate, rotation.plain, "heads angle angle"),
}
"""The fused operation, its formula in torch, and the kinds of its arguments (see `inputs`)."""


def main() -> None:
    """Print the times of every formula, their summary, and the first calls."""
    made = parser(__doc__, rounds=21)
    made.add_argument("--formulas", nargs="+", default=list(FORMULAS), choices=FORMULAS)
    made.add_argument("--widths", nargs="+", type=int, default=[256], help="C")
    made.add_argument("--lengths", nargs="+", type=int, default=[256, 4096], help="T")
    arguments = parse(made)
    shapes = [(T, C) for C in arguments.widths for T in arguments.lengths]
    found: list[dict[str, Samples]] = []
    publish(
        "Native elementwise kernels, eager torch and torch.compile",
        table(
            ("formula, pass, T x C", "native", "eager / native", "compiled / native"),
            time_rows(arguments.formulas, shapes, arguments.rounds, found),
        ),
        summary(found),
        table(
            ("first calls (processor time)", "cold cache", "warm cache"),
            first_call_rows(arguments.formulas, shapes[0]),
        ),
        arguments=arguments,
    )


def inputs(kinds: str, T: int, C: int) -> list[Any]:
    """Random arguments that need gradients; all but `angle` and numbers do."""
    shapes: dict[str, tuple[int, ...]] = {
        "x": (1, T, C),
        "two": (1, T, 2 * C),
        "heads": (1, T, C // HEAD, HEAD),
        "head": (C // HEAD, HEAD),
        "previous": (1, C),
        "mu": (5, C),
        "change": (5, 1, T, C),
        "c": (C,),
        "angle": (T, HEAD // 2),
    }
    numbers = {"eps": EPS, "share": 0.0}
    return [
        numbers[kind]
        if kind in numbers
        else torch.randn(shapes[kind], requires_grad=kind != "angle")
        for kind in kinds.split()
    ]


def inputs_of(name: str, T: int, C: int, dtype: torch.dtype, device: str) -> list[Any]:
    """`inputs` of a formula on a device; what is no weight, and no table of angles, in `dtype`."""
    kinds = FORMULAS[name][2]
    wide = ("c", "head", "mu", "angle")
    return [
        x.detach()
        .to(device, torch.float32 if kind in wide else dtype)
        .requires_grad_(x.requires_grad)
        if isinstance(x, torch.Tensor)
        else x
        for kind, x in zip(kinds.split(), inputs(kinds, T, C), strict=True)
    ]


def ways(name: str, given: list[Any], backward: bool) -> dict[str, Callable[[], Any]]:
    """The formula native, in eager torch, and compiled for the shape of what is given."""
    native, plain, _ = FORMULAS[name]
    functions = (native, plain, torch.compile(plain, dynamic=False, fullgraph=True))
    return {
        way: passes(function, given, backward)
        for way, function in zip(WAYS, functions, strict=True)
    }


def time_rows(
    names: list[str], shapes: list[tuple[int, int]], rounds: int, found: list[dict[str, Samples]]
) -> Iterator[Row]:
    """Microseconds of the native pass and what the others take of it; adds the times to `found`."""
    for name in names:
        for backward in (False, True):
            for T, C in shapes:
                torch.compiler.reset()
                works = ways(name, inputs(FORMULAS[name][2], T, C), backward)
                seconds = interleave({way: often(works[way]) for way in WAYS}, rounds)
                found.append(seconds)
                which = "forward + backward" if backward else "forward"
                ratios = [seconds[way].over(seconds["native"]).middle() for way in WAYS[1:]]
                micro = seconds["native"].scaled(1e6).median
                yield Row(f"{name}, {which}, {T} x {C}", [f"{micro:.1f} us", *ratios])


def often(work: Callable[[], Any]) -> Callable[[], float]:
    """Measure `work` with as many calls in a row as make the clock's own cost small."""
    once = min(timed(work)() for _ in range(5))  # the first one compiles
    return timed(work, max(1, round(MIN_SECONDS / once)))


def summary(found: list[dict[str, Samples]]) -> Iterator[str]:
    """One line for each way: its median ratio, and how often it is decidedly slower or faster."""
    for way in WAYS[1:]:
        ratios = [seconds[way].over(seconds["native"]) for seconds in found]
        slower = sum(ratio.quartiles[0] > 1 for ratio in ratios)
        faster = sum(ratio.quartiles[1] < 1 for ratio in ratios)
        yield (
            f"* {way} takes {median(ratio.median for ratio in ratios):.2f} times as long as native "
            f"in the median of {len(found)} cases; by both quartiles it is slower in {slower} and "
            f"faster in {faster}"
        )


# ---------------------------------------------------------------- first calls


def first_call_rows(names: list[str], shape: tuple[int, int]) -> Iterator[Row]:
    """What it takes until one formula, and all of them, have run once in a fresh process."""
    sets = {names[0]: names[:1], f"all {len(names)}": names}
    for what, chosen in sets.items():
        for way in ("native", "compiled"):
            with tempfile.TemporaryDirectory() as folder:
                calls = [first_calls(way, chosen, shape, folder) for _ in range(2)]
            figures = [f"{wall:.2f} s ({processor:.2f} s)" for wall, processor in calls]
            yield Row(f"{what}, {way}", figures)


def first_calls(
    way: str, names: list[str], shape: tuple[int, int], folder: str
) -> tuple[float, float]:
    """`call_first` in a fresh process, with `folder` as its only cache."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(call_first, way, names, shape, folder).result()


def call_first(
    way: str, names: list[str], shape: tuple[int, int], folder: str
) -> tuple[float, float]:
    """Forward and backward of each formula, once: seconds, and those of all processors for it."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # no workers, whose time would not be counted
    build.cache_dir = lambda: Path(folder)
    began, before = perf_counter(), os.times()
    for name in names:
        native, plain, kinds = FORMULAS[name]
        function = native if way == "native" else torch.compile(plain, dynamic=False)
        passes(function, inputs(kinds, *shape), backward=True)()
    return perf_counter() - began, sum(os.times()[:4]) - sum(before[:4])
