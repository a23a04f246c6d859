"""One training step at growing context, in bounded memory: `python benchmarks/long_context.py`.

A recurrent model reads segments with exact gradients; an attention model the whole
sequence, every block recomputed. Both fuse the loss. Each point runs in a fresh process under the
same limits of memory and time; a model ends with the first length that it does not survive,
and that row says why. Prints a table in Markdown.
"""

from __future__ import annotations

from scripts.cli.launch import script

if __name__ == "__main__":
    script("benchmarks.long_context:main")


import argparse
import time
from dataclasses import asdict, dataclass
from typing import Any

import psutil
import torch
import yaml

from conf.schema import FOLDER
from core.environment import commit, cpu_name
from models.long_context.segments import segmented_objective
from models.registry import ModelSpec, build
from probes.measure import isolated
from probes.measure.counters import peak_memory
from probes.measure.isolated import Outcome, Report
from probes.measure.worker import calibrate
from probes.rows import OK
from scripts.cli.model_spec import model_spec

VOCAB = 3072
LENGTHS = (8192, 16384, 32768, 65536, 131072, 262144, 524288, 1048576)
MIB = 1 << 20


@dataclass(frozen=True)
class Point:
    """One row, as a child needs it."""

    spec: ModelSpec
    length: int
    segment: int
    """Tokens read at once by a recurrent model; 0: the whole sequence, like attention."""
    threads: int
    repeats: int
    memory_bytes: int
    baseline_bytes: int


def main() -> None:
    """Measure every point and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["rwkv7", "transformer"])
    parser.add_argument("--size", default="5m")
    parser.add_argument("--lengths", nargs="+", type=int, default=LENGTHS)
    parser.add_argument("--segment", type=int, default=8192, help="0: whole sequences")
    parser.add_argument("--repeats", type=int, default=1, help="timed steps; the fastest counts")
    parser.add_argument("--threads", type=int, default=0, help="0: PyTorch's default")
    parser.add_argument("--memory-gib", type=float, default=2.0, help="limit of every point")
    parser.add_argument("--timeout-s", type=float, default=3600, help="limit of every point")
    arguments = parser.parse_args()
    isolated.preload(["probes.measure.worker", "models.long_context.segments"])
    base = isolated.run(calibrate, ("cpu", arguments.threads, "float32"), 600).facts[
        "baseline_bytes"
    ]
    threads = arguments.threads or torch.get_num_threads()
    gib = psutil.virtual_memory().total / 2**30
    print(f"{cpu_name()}, {threads} threads, {gib:.0f} GiB, torch {torch.__version__}, {commit()}")
    print(
        f"\nOne training step, batch 1, fp32, size {arguments.size}; limits of a point: "
        f"{arguments.memory_gib:g} GiB, {arguments.timeout_s:g} s\n"
    )
    print("| model | context | status | step | per token | to the first | peak | to the first |")
    print("|---|--:|---|--:|--:|--:|--:|--:|")
    for name in arguments.models:
        first: dict[str, Any] | None = None
        for length in sorted(arguments.lengths):
            point = Point(
                spec_of(name, arguments.size, length),
                length,
                arguments.segment,
                arguments.threads,
                arguments.repeats,
                int(arguments.memory_gib * 2**30),
                base,
            )
            outcome = isolated.run(measure, (point,), arguments.timeout_s)
            print(row(point, outcome, first), flush=True)
            if outcome.status != OK:
                break
            first = first or outcome.facts


def spec_of(name: str, size: str, length: int) -> ModelSpec:
    """The model of `conf/model/NAME.yaml`, with positions enough where it learns them."""
    group = yaml.safe_load((FOLDER / "model" / f"{name}.yaml").read_text(encoding="utf-8"))
    spec = model_spec({**group, "size": size}, VOCAB)
    positions = {"n_positions": length} if "n_positions" in spec.config else {}
    return ModelSpec(**{**asdict(spec), "config": {**spec.config, **positions}})


def measure(report: Report, point: Point) -> None:
    """Work of a child: how it reads, seconds of each step and bytes at the peak of a step."""
    if point.threads:
        torch.set_num_threads(point.threads)
    peak_memory.limit("cpu", point.memory_bytes)
    torch.manual_seed(0)
    model: Any = build(point.spec)
    segment = min(point.segment, point.length) if model.recurrent else 0
    model.gradient_checkpointing = not model.recurrent
    how = f"segments of {segment:,}" if segment else "whole"
    report({"how": how + (", blocks recomputed" if model.gradient_checkpointing else "")})
    tokens = torch.randint(VOCAB, (1, point.length + 1))
    inputs, targets = tokens[:, :-1], tokens[:, 1:]

    def step(length: int) -> float:
        model.zero_grad(set_to_none=True)
        began = time.perf_counter()
        x, y = inputs[:, :length], targets[:, :length]
        if segment:
            segmented_objective(model, x, y, min(segment, length))[0].backward()
        else:
            model.objective(x, y)[0].backward()
        return time.perf_counter() - began

    step(min(1024, point.length))  # compiles kernels and fills caches
    peak_memory.reset_peak("cpu")
    seconds = [step(point.length) for _ in range(point.repeats)]
    peak = peak_memory.peak("cpu")
    if peak is not None:
        report({"peak_bytes": peak - point.baseline_bytes})
    report({"seconds": seconds, "tokens": point.length})


def row(point: Point, outcome: Outcome, first: dict[str, Any] | None) -> str:
    """One line of the table; ratios are to the shortest context of the same model."""
    facts = outcome.facts
    name = f"{point.spec.name}, {facts.get('how', 'not built')}"
    if outcome.status != OK:
        return f"| {name} | {point.length:,} | {outcome.status}: {outcome.error} | | | | | |"
    start = first or facts
    per_token, per_token_first = (
        min(timing["seconds"]) / timing["tokens"] for timing in (facts, start)
    )
    figures = f"{min(facts['seconds']):,.1f} s | {1e6 * per_token:,.0f} us"
    figures += f" | {per_token / per_token_first:.2f}"
    if "peak_bytes" in facts:
        peak, peak_first = facts["peak_bytes"], start["peak_bytes"]
        figures += f" | {peak / MIB:,.0f} MiB | {peak / peak_first:.2f}"
    else:
        figures += " | not measured | "
    return f"| {name} | {point.length:,} | {outcome.status} | {figures} |"
