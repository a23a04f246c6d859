"""Measure this machine's rates now: a small model of the same kind, run and timed.

The model has two layers and at most `MOST_WIDTH` channels. It is run at a few numbers of tokens, as
many of them as there is time for (products in bf16 are ten times slower than in fp32 on a processor
without them), every operation timed below autograd, and each takes the fastest of its repeats,
because other processes only ever add time. With one thread the clock is the processor's, which does
not count their time at all. What a whole step takes beyond the sum of its operations is divided
over operations and bytes; what it holds beyond its tensors is the allocator's overhead.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import psutil
import torch

from core import environment
from models.contract import most_tokens
from models.registry import ModelSpec, build
from models.step_trace import PRECISIONS, Op, run
from probes.measure.counters import peak_memory
from probes.measure.tasks.timing import random_rows
from probes.plan.device_rates import Measured, fit_curves

TOKENS = (256, 1024, 4096)
REPEATS = 3
MOST_SECONDS = 5.0  # of repeats at one length, after which no further one is begun
WHOLE_SECONDS = 30.0  # within which a further length must be done
FEWEST_STEPS = 3  # that a length takes: watched, not watched, and for the peak of memory
MOST_WIDTH, MOST_VOCABULARY = 512, 4096
Clock = Callable[[], float]
SIDE = 1024  # of the matrices whose product is the peak


@dataclass(frozen=True)
class Calibration:
    """The rates that were measured here, and on what."""

    rates: Measured
    peak_flops: float
    """Speed of a large matrix product in the planned precision, or fp32 where faster, FLOP/s:
    some operations are fp32 in any precision."""
    memory_bytes: int
    """Available now."""
    allocator_overhead: float
    """Bytes the process holds for each byte of its activations and gradients."""
    device: dict[str, Any]
    model: str


def calibrate(spec: ModelSpec, precision: str, threads: int) -> Calibration:
    """Run and time a small relative of the model on the CPU; seconds."""
    if threads:
        torch.set_num_threads(threads)
    small = smaller(spec)
    model: Any = build(small)
    if precision == "bf16-true":
        model.to(torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    ops: list[Op] = []
    rest: list[tuple[float, float, float]] = []
    most = most_tokens(model) or max(TOKENS)
    lengths = list(dict.fromkeys(min(length, most) for length in TOKENS))
    begin, token_seconds = time.perf_counter(), 0.0
    for place, length in enumerate(lengths):
        expected = FEWEST_STEPS * token_seconds * length
        if place and time.perf_counter() - begin + expected > WHOLE_SECONDS:
            del lengths[place:]
            break
        tokens = random_rows(small, model.config.vocab_size, (1, length), generator)
        traced, whole, token_seconds = _fastest(model, tokens, precision, clock)
        ops += traced
        beyond = max(whole - sum(op.seconds for op in traced), 0.0)
        rest.append((len(traced), sum(op.bytes for op in traced), beyond))
    # Seconds per operation, from the shortest step; per byte, from what is left of the longest.
    count, _, seconds = rest[0]
    op_seconds = seconds / count
    count, moved, seconds = rest[-1]
    byte_seconds = max(0.0, seconds - count * op_seconds) / moved
    # The process at the peak of a step, against its tensors at the fullest moment.
    held = max(op.activations + op.gradients for op in traced)
    model.zero_grad(set_to_none=True)
    peak_memory.reset_peak("cpu")
    before = peak_memory.peak("cpu")
    _step(model, tokens, precision)
    after = peak_memory.peak("cpu")
    peak_bytes = 0.0 if before is None or after is None else after - before
    described = environment.describe_device("cpu")
    width = small.config["n_embd"]
    among = " to ".join(f"{length:,}" for length in dict.fromkeys((lengths[0], lengths[-1])))
    return Calibration(
        Measured(fit_curves(ops), op_seconds, byte_seconds),
        _peak_flops(precision, clock),
        psutil.virtual_memory().available,
        max(peak_bytes / held, 1.0),
        described,
        f"{spec.name}, 2 layers, {width} channels, {among} tokens",
    )


def smaller(spec: ModelSpec) -> ModelSpec:
    """Two layers of the model, as narrow as keeps its heads and its proportions."""
    config = dict(spec.config)
    factor = max(1, config["n_embd"] // MOST_WIDTH)
    while any(config.get(key, 0) % factor for key in ("n_embd", "n_head") if config.get(key)):
        factor -= 1
    for key in ("n_embd", "n_head", "n_kv_head", "n_ffn"):
        if config.get(key):
            config[key] = max(1, config[key] // factor)
    config |= {"n_layer": 2, "vocab_size": min(config["vocab_size"], MOST_VOCABULARY)}
    if (config.get("separator") or 0) >= config["vocab_size"]:
        config["separator"] = None  # the last of the vocabulary
    return replace(spec, config=config)


def _fastest(
    model: Any, tokens: torch.Tensor, precision: str, clock: Clock
) -> tuple[list[Op], float, float]:
    """Operations with their shortest times; the shortest time of a step that is not watched; and
    what a watched step took by the wall clock, for each token."""
    runs = []
    begin = time.perf_counter()
    for _ in _rounds(REPEATS + 1):  # the first one warms up, where there is time for more
        model.zero_grad(set_to_none=True)
        runs.append(run(model, tokens, precision, clock))
    token_seconds = (time.perf_counter() - begin) / len(runs) / tokens.numel()
    times = [min(same) for same in zip(*([op.seconds for op in ops] for ops in runs), strict=True)]
    ops = [replace(op, seconds=seconds) for op, seconds in zip(runs[-1], times, strict=True)]
    whole = _shortest(lambda: _step(model, tokens, precision), REPEATS, clock)
    return ops, whole, token_seconds


def _step(model: Any, tokens: torch.Tensor, precision: str) -> None:
    model.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision.endswith("-mixed")):
        loss, _ = model.loss(tokens, tokens)
    loss.backward()


def _peak_flops(precision: str, clock: Clock) -> float:
    rates = []
    for dtype in {torch.float32, PRECISIONS[precision]}:
        matrix = torch.ones(SIDE, SIDE, dtype=dtype)
        rates.append(2 * SIDE**3 / _shortest(partial(torch.mm, matrix, matrix), 5, clock))
    return max(rates)


def _shortest(work: Callable[[], Any], repeats: int, clock: Clock) -> float:
    seconds = []
    for _ in _rounds(repeats):
        start = clock()
        work()
        seconds.append(clock() - start)
    return min(seconds)


def _rounds(most: int) -> Iterator[None]:
    """`most` rounds, or as many as begin within `MOST_SECONDS`; one at least."""
    begin = time.perf_counter()
    for number in range(most):
        if number and time.perf_counter() - begin > MOST_SECONDS:
            return
        yield
