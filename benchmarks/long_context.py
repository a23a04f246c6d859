"""One training step at growing context, in bounded memory: `python benchmarks/long_context.py`.

A recurrent model reads segments with exact gradients; an attention model the whole
sequence, every block recomputed. Both fuse the loss. Each point runs in a fresh process under the
same limits of memory and time; a model ends with the first length that it does not survive,
and that row says why.
"""

from __future__ import annotations

from scripts.cli.launch import script

if __name__ == "__main__":
    script("benchmarks.long_context:main")


import argparse
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
import yaml

from benchmarks.harness import Row, parse, parser, publish, table, timed
from conf.schema import FOLDER
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
COLUMNS = [
    "model",
    "context",
    "status",
    "step",
    "per token",
    "to the first",
    "peak",
    "to the first",
]


def main() -> None:
    """Measure every point and print the table."""
    made = parser(__doc__, rounds=1)
    made.add_argument("--models", nargs="+", default=["rwkv7", "transformer"])
    made.add_argument("--size", default="5m")
    made.add_argument("--lengths", nargs="+", type=int, default=LENGTHS)
    made.add_argument("--segment", type=int, default=8192, help="0: whole sequences")
    made.add_argument("--memory-gib", type=float, default=2.0, help="limit of every point")
    made.add_argument("--timeout-s", type=float, default=3600, help="limit of every point")
    arguments = parse(made)
    publish(
        f"One training step, batch 1, fp32, size {arguments.size}; limits of a point: "
        f"{arguments.memory_gib:g} GiB, {arguments.timeout_s:g} s; the fastest of its rounds",
        table(COLUMNS, rows(arguments)),
        arguments=arguments,
    )


def rows(arguments: argparse.Namespace) -> Iterator[Row]:
    """Every point, until a model does not survive one."""
    isolated.preload(["probes.measure.worker", "models.long_context.segments"])
    empty = isolated.run(calibrate, ("cpu", arguments.threads, "float32"), 600)
    for name in arguments.models:
        first: dict[str, Any] | None = None
        for length in sorted(arguments.lengths):
            spec = spec_of(name, arguments.size, length)
            given = spec, length, arguments, empty.facts["baseline_bytes"]
            outcome = isolated.run(measure, given, arguments.timeout_s)
            yield row(name, length, outcome, first)
            if outcome.status != OK:
                break
            first = first or outcome.facts


def spec_of(name: str, size: str, length: int) -> ModelSpec:
    """The model of `conf/model/NAME.yaml`, with positions enough where it learns them."""
    group = yaml.safe_load((FOLDER / "model" / f"{name}.yaml").read_text(encoding="utf-8"))
    spec = model_spec({**group, "size": size}, VOCAB)
    positions = {"n_positions": length} if "n_positions" in spec.config else {}
    return ModelSpec(**{**asdict(spec), "config": {**spec.config, **positions}})


def measure(
    report: Report, spec: ModelSpec, length: int, arguments: argparse.Namespace, baseline: int
) -> None:
    """Work of a child: how it reads, seconds of each step and bytes at the peak of a step."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    peak_memory.limit("cpu", int(arguments.memory_gib * 2**30))
    torch.manual_seed(0)
    model: Any = build(spec)
    segment = min(arguments.segment, length) if model.recurrent else 0
    model.gradient_checkpointing = not model.recurrent
    how = f"segments of {segment:,}" if segment else "whole"
    report({"how": how + (", blocks recomputed" if model.gradient_checkpointing else "")})
    tokens = torch.randint(VOCAB, (1, length + 1))
    inputs, targets = tokens[:, :-1], tokens[:, 1:]

    def step(tokens: int) -> None:
        x, y = inputs[:, :tokens], targets[:, :tokens]
        if segment:
            segmented_objective(model, x, y, min(segment, tokens))[0].backward()
        else:
            model.objective(x, y)[0].backward()

    step(min(1024, length))  # compiles kernels and fills caches
    peak_memory.reset_peak("cpu")
    seconds = []
    for _ in range(arguments.rounds):
        model.zero_grad(set_to_none=True)
        seconds.append(timed(partial(step, length))())
    peak = peak_memory.peak("cpu")
    if peak is not None:
        report({"peak_bytes": peak - baseline})
    report({"seconds": seconds, "tokens": length})


def row(name: str, length: int, outcome: Outcome, first: dict[str, Any] | None) -> Row:
    """The figures of a point; ratios are to the shortest context of the same model."""
    facts = outcome.facts
    what, context = f"{name}, {facts.get('how', 'not built')}", f"{length:,}"
    if outcome.status != OK:
        return Row(what, (context, f"{outcome.status}: {outcome.error}"))
    start = first or facts
    each, each_first = (min(point["seconds"]) / point["tokens"] for point in (facts, start))
    figures = [f"{min(facts['seconds']):,.1f} s", f"{1e6 * each:,.0f} us"]
    figures.append(f"{each / each_first:.2f}")
    if "peak_bytes" in facts:
        peak, peak_first = facts["peak_bytes"], start["peak_bytes"]
        figures += [f"{peak / MIB:,.0f} MiB", f"{peak / peak_first:.2f}"]
    else:
        figures.append("not measured")
    return Row(what, (context, outcome.status, *figures))
