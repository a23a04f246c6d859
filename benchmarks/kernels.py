"""Check every back end of the WKV operator, then time it: `python benchmarks/kernels.py`.

Checks are against fp64 on fresh random inputs with poisoned outputs. Times are against the pieces a
user would otherwise have, taken in random order within each round, so that drift of the machine
falls on all alike: on the CPU `torch.exp` of the same tensor, the sequential loop and the fallback
of `transformers`; on a GPU the copy bandwidth and the official kernel (`--official` its folder).
One call does all that this machine can. Ends with a table and writes it to docs/benchmarks/.
"""

from __future__ import annotations

from scripts.cli.launch import script

if __name__ == "__main__":
    script("benchmarks.kernels:main")


import argparse
import datetime
import random
import re
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import wkv7
from benchmarks.gpu import Row, forward, gpu_rows, inputs, training
from core.environment import commit, cpu_name
from models.ops import backends
from models.ops.wkv import wkv4, wkv4_initial_state
from models.ops.wkv4.reference import wkv4_sequential

TOLERANCE = 1e-5


def main() -> None:
    """Check, time, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10, help="times of each piece")
    parser.add_argument("--seed", type=int, default=None, help="default: a new one each time")
    parser.add_argument("--official", type=Path, help="folder of wkv_op_bf16.cpp and .cu, RWKV-LM")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"))
    arguments = parser.parse_args()
    seed = random.SystemRandom().randrange(2**31) if arguments.seed is None else arguments.seed
    torch.manual_seed(seed)
    random.seed(seed)
    ready = [name for name, state in backends.report().items() if state == "ready"]
    text = "\n".join(
        [
            "# Kernels of the WKV operator",
            "",
            f"`python benchmarks/kernels.py --seed {seed} --rounds {arguments.rounds}`, "
            f"{datetime.date.today()}, commit {commit()[:12]}.",
            "",
            *(f"* {line}" for line in machine()),
            "",
            f"## Largest error against fp64 (limit {TOLERANCE:g})",
            "",
            *table(("case", *ready), [check(case, ready) for case in CASES]),
            "",
            "Relative to the largest true value of each of y, the state and the five gradients, or "
            "to 0.1 where that is smaller; of these the worst.",
            "",
            "## Time",
            "",
            f"Of {arguments.rounds} rounds the best (CPU) or the median (GPU, bf16, cold cache).",
            "",
            *table(
                Row._fields,
                [
                    *cpu_rows(arguments.rounds, ready),
                    *gpu_rows(arguments.rounds, arguments.official),
                    *wkv7.check_rows(),
                    *wkv7.time_rows(arguments.rounds),
                ],
            ),
            "",
        ]
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    device = torch.cuda.get_device_name() if "cuda" in ready else cpu_name()
    slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    path = arguments.out / f"{datetime.date.today()}-{slug}.md"
    path.write_text(text)
    print(f"{text}\nwritten to {path}")


def machine() -> list[str]:
    """What the numbers depend on."""
    lines = [
        f"{cpu_name()}, {torch.get_num_threads()} threads",
        f"torch {torch.__version__}",
        *(f"back end {name}: {state}" for name, state in backends.report().items()),
    ]
    if torch.cuda.is_available():
        lines.append(f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}")
    return lines


def table(head: tuple[str, ...], rows: list[tuple[str, ...]] | list[Row]) -> list[str]:
    """Lines of a Markdown table."""
    return ["| " + " | ".join(cells) + " |" for cells in (head, ("---",) * len(head), *rows)]


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


def check(case: str, ready: list[str]) -> tuple[str, ...]:
    """A row: the largest error of each back end, all on the same inputs."""
    given = CASES[case]()
    B, _, C = given[2].shape
    given.append(wkv4_initial_state(B, C))
    weights = [torch.randn(given[2].shape), torch.randn(B, C), torch.randn(B, C)]
    true = results(given, weights, "reference", torch.float64, "cpu")
    errors = []
    for name in ready:
        device = "cuda" if name == "cuda" else "cpu"
        torch.use_deterministic_algorithms(True)  # fills new tensors with NaN
        got = results(given, weights, name, torch.float32, device)
        torch.use_deterministic_algorithms(False)
        worst = max(
            float((x - y).abs().max() / y.abs().max().clamp(min=0.1)) if x.isfinite().all() else 9e9
            for x, y in zip(got, true, strict=True)
        )
        errors.append(f"{worst:.1e}" + ("" if worst <= TOLERANCE else " **above the limit**"))
    return case, *errors


def results(
    given: list[Tensor], weights: list[Tensor], backend: str, dtype: torch.dtype, device: str
) -> list[Tensor]:
    """y, both parts of the state that do not depend on its scale, and the gradients, in fp64."""
    leaves = [x.to(device, dtype, copy=True).requires_grad_() for x in given]
    w, u, k, v, start = leaves
    y, state = wkv4(w, u, k, v, start, backend)
    a, b, p = state.unbind(1)
    out = [y, a / b, torch.log(b) + p]
    grads = torch.autograd.grad(out, leaves, [x.to(device, dtype) for x in weights])
    return [x.detach().double().cpu() for x in (*out, *grads)]


# ---------------------------------------------------------------- times


def times(pieces: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Best seconds of each piece, in random order within every round; two rounds to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in pieces}
    for number in range(rounds + 2):
        for name in random.sample(list(pieces), len(pieces)):
            start = time.perf_counter()
            result = pieces[name]()
            if number >= 2:
                seconds[name].append(time.perf_counter() - start)
            del result
    return {name: min(values) for name, values in seconds.items()}


def cpu_rows(rounds: int, ready: list[str]) -> list[Row]:
    """Against torch.exp at length 16384, against the loops at length 1024."""
    if "cpu" not in ready:
        return [Row("CPU kernels", "not measured: not ready", "")]
    given = inputs(1, 16384, 768)
    k = given[2]
    pieces = {
        "exp": lambda: torch.exp(k),
        "forward": forward(given, "cpu"),
        "both": training(given, "cpu"),
        "chunked": training(given, "reference"),
    }
    long = times(pieces, rounds)
    base = long["exp"]
    rows = [
        Row("torch.exp of k, CPU, fp32, B=1, T=16384, C=768", f"{1e3 * base:.1f} ms", ""),
        relative("forward over torch.exp", long["forward"], base, "<= 2.0x"),
        relative("forward + backward over torch.exp", long["both"], base, "<= 8x"),
        relative("chunked reference, forward + backward", long["chunked"], base, ""),
    ]
    given = inputs(1, 1024, 768)
    pieces = {"both": training(given, "cpu"), "loop": by_loop(given)}
    if fallback := by_transformers(given):
        pieces["transformers"] = fallback
    short = times(pieces, max(3, rounds // 3))
    rows.append(faster("the sequential loop with autograd", short["loop"], short["both"], ""))
    what, goal = "the CPU fallback of transformers", ">= 100x faster"
    if not fallback:
        return [*rows, Row(f"against {what}", "not measured: transformers is missing", goal)]
    return [*rows, faster(what, short["transformers"], short["both"], goal)]


def relative(what: str, seconds: float, base: float, goal: str) -> Row:
    return Row(what, f"{seconds / base:.2f}x ({1e3 * seconds:.1f} ms)", goal)


def faster(what: str, theirs: float, ours: float, goal: str) -> Row:
    text = f"{theirs / ours:.0f}x faster ({1e3 * theirs:.0f} ms and {1e3 * ours:.2f} ms)"
    return Row(f"against {what}, CPU, T=1024, C=768, forward + backward", text, goal)


def by_loop(given: list[Tensor]) -> Callable[[], object]:
    """The readable loop, differentiated by autograd."""
    leaves = [x.detach().requires_grad_() for x in given]
    state = wkv4_initial_state(1, given[2].shape[2])
    grad = torch.randn_like(given[2])
    w, u, k, v = leaves
    return lambda: torch.autograd.grad(wkv4_sequential(w, u, k, v, state)[0], leaves, grad)


def by_transformers(given: list[Tensor]) -> Callable[[], object] | None:
    """What `transformers` runs without its CUDA kernel; None where it is not installed."""
    try:
        from transformers.models.rwkv.modeling_rwkv import rwkv_linear_attention_cpu
    except ImportError:
        return None
    decay = torch.log(-given[0])
    leaves = [x.detach().requires_grad_() for x in (decay, *given[1:])]
    grad = torch.randn_like(given[2])
    return lambda: torch.autograd.grad(rwkv_linear_attention_cpu(*leaves)[0], leaves, grad)
