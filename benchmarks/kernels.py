"""Check every back end of the WKV operator, then time it: `python benchmarks/kernels.py`.

Checks are against fp64 on fresh random inputs with poisoned outputs. Times are against the pieces a
user would otherwise have: on the CPU `torch.exp` of the same tensor, the sequential loop and the
fallback of `transformers`; on a GPU the copy bandwidth and the official kernel (`--official` its
folder). One call does all that this machine can, and writes its record to docs/benchmarks/.
"""

from __future__ import annotations

from scripts.cli.launch import script

if __name__ == "__main__":
    script("benchmarks.kernels:main")


import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import wkv7
from benchmarks.elementwise_gpu import elementwise_rows
from benchmarks.harness import Row, in_turns, parse, parser, publish, table
from benchmarks.operators import ABOVE, largest_error, passes, poisoned, results
from benchmarks.wkv4_gpu import gpu_rows, inputs, wkv4_pass
from models.ops import backends
from models.ops.wkv import wkv4, wkv4_initial_state
from models.ops.wkv4.reference import wkv4_sequential

TOLERANCE = 1e-5
WARMUP = 2


def main() -> None:
    """Check, time, print, write."""
    made = parser(__doc__, rounds=10)
    made.add_argument("--official", type=Path, help="folder of wkv_op_bf16.cpp and .cu, RWKV-LM")
    made.set_defaults(seed=-1, out=Path("docs/benchmarks"))
    arguments = parse(made)
    states = backends.report()
    ready = [name for name, state in states.items() if state == "ready"]
    times = itertools.chain(
        cpu_rows(arguments.rounds, ready),
        elementwise_rows(arguments.rounds),
        gpu_rows(arguments.rounds, arguments.official),
        wkv7.check_rows(),
        wkv7.time_rows(arguments.rounds),
    )
    publish(
        "Kernels of the WKV operator",
        [f"* back end {name}: {state}" for name, state in states.items()],
        table(
            ("case", *ready),
            (check(case, ready) for case in CASES),
            f"Largest error against fp64 (limit {TOLERANCE:g})",
        ),
        [
            "Relative to the largest true value of each of y, the state and the five gradients, "
            "or to 0.1 where that is smaller; of these the worst."
        ],
        table(("what", "measured", "goal"), times, "Time"),
        [f"Of {arguments.rounds} rounds the best (CPU) or the median (GPU, bf16, cold cache)."],
        packages=("transformers",),
        arguments=arguments,
    )


# ---------------------------------------------------------------- checks


def with_keys(keys: Callable[[int], Tensor], T: int = 1000) -> Callable[[], list[Tensor]]:
    """Replace k by `keys(T)` in every channel."""

    def build() -> list[Tensor]:
        w, u, k, v = inputs(2, T, 40)
        return [w, u, keys(T)[None, :, None].expand_as(k).contiguous(), v]

    return build


CASES: dict[str, Callable[[], list[Tensor]]] = {
    "random, B=2, T=1000, C=100": lambda: inputs(2, 1000, 100),
    "T=1": lambda: inputs(3, 1, 40),
    "T=100,003": lambda: inputs(1, 100_003, 8),
    "k from -100 to 100": with_keys(lambda T: torch.linspace(-100, 100, T)),
    "k from 100 to -100": with_keys(lambda T: torch.linspace(100, -100, T)),
    "all k equal": with_keys(lambda T: torch.full((T,), 3.0)),
}


def check(case: str, ready: list[str]) -> Row:
    """The largest error of each back end, all on the same inputs."""
    given = CASES[case]()
    B, _, C = given[2].shape
    given.append(wkv4_initial_state(B, C))
    weights = [torch.randn(given[2].shape), torch.randn(B, C), torch.randn(B, C)]
    true = results(scale_free("reference"), given, weights, torch.float64, "cpu")
    errors = []
    for name in ready:
        device = "cuda" if name == "cuda" else "cpu"
        with poisoned():
            got = results(scale_free(name), given, weights, torch.float32, device)
        error, _ = largest_error(got, true)
        errors.append(f"{error:.1e}{'' if error <= TOLERANCE else ABOVE}")
    return Row(case, errors)


def scale_free(backend: str) -> Callable[..., tuple[Tensor, ...]]:
    """The operator: y, and both parts of the state that do not depend on its scale."""

    def call(w: Tensor, u: Tensor, k: Tensor, v: Tensor, start: Tensor) -> tuple[Tensor, ...]:
        y, state = wkv4(w, u, k, v, start, backend)
        a, b, p = state.unbind(1)
        return y, a / b, torch.log(b) + p

    return call


# ---------------------------------------------------------------- times


def cpu_rows(rounds: int, ready: list[str]) -> Iterator[Row]:
    """Against torch.exp at length 16384, against the loops at length 1024."""
    if "cpu" not in ready:
        yield Row("CPU kernels", ("not measured: not ready",))
        return
    given = inputs(1, 16384, 768)
    k = given[2]
    long = in_turns(
        {
            "exp": lambda: torch.exp(k),
            "forward": wkv4_pass(given, "cpu", False),
            "both": wkv4_pass(given, "cpu", True),
            "chunked": wkv4_pass(given, "reference", True),
        },
        rounds,
        WARMUP,
    )
    base = long["exp"].best
    yield Row("torch.exp of k, CPU, fp32, B=1, T=16384, C=768", (f"{1e3 * base:.1f} ms",))
    for what, name, goal in (
        ("forward over torch.exp", "forward", "<= 2.0x"),
        ("forward + backward over torch.exp", "both", "<= 8x"),
        ("chunked reference, forward + backward", "chunked", ""),
    ):
        seconds = long[name].best
        yield Row(what, (f"{seconds / base:.2f}x ({1e3 * seconds:.1f} ms)", goal))
    given = inputs(1, 1024, 768)
    pieces = {"both": wkv4_pass(given, "cpu", True), "loop": by_loop(given)}
    if fallback := by_transformers(given):
        pieces["transformers"] = fallback
    short = in_turns(pieces, max(3, rounds // 3), WARMUP)
    for what, name, goal in (
        ("the sequential loop with autograd", "loop", ""),
        ("the CPU fallback of transformers", "transformers", ">= 100x faster"),
    ):
        text = "not measured: transformers is missing"
        if name in short:
            theirs, ours = short[name].best, short["both"].best
            text = f"{theirs / ours:.0f}x faster ({1e3 * theirs:.0f} ms and {1e3 * ours:.2f} ms)"
        yield Row(f"against {what}, CPU, T=1024, C=768, forward + backward", (text, goal))


def by_loop(given: list[Tensor]) -> Callable[[], Any]:
    """The readable loop, differentiated by autograd."""
    state = wkv4_initial_state(1, given[2].shape[2])
    leaves = [x.detach().requires_grad_() for x in given]
    return passes(lambda w, u, k, v: wkv4_sequential(w, u, k, v, state)[0], leaves, True)


def by_transformers(given: list[Tensor]) -> Callable[[], Any] | None:
    """What `transformers` runs without its CUDA kernel; None where it is not installed."""
    try:
        from transformers.models.rwkv.modeling_rwkv import rwkv_linear_attention_cpu
    except ImportError:
        return None
    leaves = [x.detach().requires_grad_() for x in (torch.log(-given[0]), *given[1:])]
    return passes(lambda *leaves: rwkv_linear_attention_cpu(*leaves)[0], leaves, True)
