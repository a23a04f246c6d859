"""What all probes share: the task, its tokens, the clock, and the energy counter beside it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from models.contract import State, named_tensors
from models.registry import ModelSpec
from probes import energy, memory

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TRAINING_FACTOR = 3  # backward costs two forwards: one product for inputs, one for weights
TRAINING = ("train", "layer", "operator", "max_batch_train")
"""Probes with a backward pass: weights stay fp32, single operations go lower (autocast)."""


@dataclass(frozen=True)
class Task:
    """Everything a child needs to know, as plain data."""

    spec: ModelSpec
    probe: str
    batch: int
    length: int
    vocab_size: int
    seed: int
    repeats: int
    warmup: int
    decode_steps: int
    precision: str
    device: str
    threads: int
    memory_bytes: int
    """Limit on what the point may allocate."""
    baseline_bytes: int
    """Peak of a process that only imports, from `calibrate`; subtracted from this one's."""
    repeat_seconds: float = math.inf
    """After so much timed work no further repeat is begun."""


@dataclass
class Series:
    """Timed repeats, and what the device used during them."""

    seconds: list[float] = field(default_factory=list)
    joules: list[float] = field(default_factory=list)
    last: Any = None
    """What the last repeat returned."""

    def facts(self, counter: energy.Counter, parts: int = 1) -> dict[str, Any]:
        """Fields of a row; `parts` is how many entries of `seconds` one repeat makes."""
        joules, method = energy.mean(counter, self.joules, sum(self.seconds))
        return {
            "seconds": [one / parts for one in self.seconds],
            "energy_joules": None if joules is None else joules / parts,
            "energy_method": method,
        }


def repeat(
    task: Task,
    counter: energy.Counter,
    before: Callable[[], Any],
    work: Callable[[Any], Any],
) -> Series:
    """Times `work(before())`, warm-up excluded, once or as often as `task` asks for."""
    series = Series()
    for index in range(task.warmup + task.repeats):
        series.last = None  # the previous one must be gone before the next is made
        prepared = before()
        wait(task)
        joules, start = counter.read(), time.perf_counter()
        series.last = work(prepared)
        wait(task)
        elapsed = time.perf_counter() - start
        if index >= task.warmup:
            series.seconds.append(elapsed)
            series.joules.append(counter.since(joules))
        if sum(series.seconds) > task.repeat_seconds:
            break
    return series


def wait(task: Task) -> None:
    """Until the device has done what it was given; the CPU always has."""
    if task.device == "cuda":
        torch.cuda.synchronize()


def peaks(task: Task) -> dict[str, Any]:
    """`peak_bytes`, the figure that curves are drawn of, and every peak the device knows."""
    highest = memory.peak(task.device)
    own = None if highest is None else max(0, highest - task.baseline_bytes)
    return {"peak_bytes": own, "memory": memory.peaks(task.device)}


def tokens(task: Task, length: int, batch: int | None = None) -> Tensor:
    """Random `[batch, length]`, the same on every device."""
    generator = torch.Generator().manual_seed(task.seed)
    size = (task.batch if batch is None else batch, length)
    return torch.randint(task.vocab_size, size, generator=generator).to(task.device)


def autocast(task: Task) -> AbstractContextManager[Any]:
    """Training keeps fp32 weights and lowers the precision of single operations."""
    if task.probe not in TRAINING or task.precision == "float32":
        return nullcontext()
    return torch.autocast(task.device, DTYPES[task.precision])


def for_inference(model: Any, task: Task) -> None:
    """Weights in the precision of the sweep; those before conversion are not part of the peak."""
    model.eval()
    model.to(DTYPES[task.precision])
    memory.reset_peak(task.device)


def state_bytes(state: State) -> int:
    """Memory the state keeps alive: the whole storage of every tensor, shared ones once."""
    storages = [tensor.untyped_storage() for _, tensor in named_tensors(state)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
