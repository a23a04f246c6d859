"""What all probes share: the task, its tokens, the clock, and the energy counter beside it."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from core import energy
from models.contract import State, named_tensors
from models.layers.compiled import NONE
from models.registry import ModelSpec, separator
from probes.measure.counters import disturbance, peak_memory
from probes.measure.counters.disturbance import CounterReading
from probes.rows import enough

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
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
    relative_half_width: float = 0.0
    """How sure the time must be before repeats end early; 0: exactly `repeats` of them."""
    compile: str = NONE
    """The compiler's back end for the blocks."""


MOST = 50
"""Repeats at most, if fewer were not asked for to begin with."""


@dataclass
class Series:
    """Timed repeats, and what the device and the machine did during them."""

    threads: int
    """That work at the same time."""
    seconds: list[float] = field(default_factory=list)
    joules: list[float] = field(default_factory=list)
    readings: list[tuple[CounterReading, CounterReading]] = field(default_factory=list)
    """Before and after each of them."""
    last: Any = None
    """What the last repeat returned."""
    peaks: dict[str, Any] = field(default_factory=dict)
    """See `peaks`: of the warm-up, or of all repeats where there is none."""

    @property
    def disturbed(self) -> list[bool]:
        return disturbance.judge(self.readings, self.threads, len(disturbance.allowed()))

    def is_enough(self, task: Task) -> bool:
        """Whether to stop: the interval is narrow enough, the time is used up, or the point is
        better measured again later."""
        if sum(self.seconds) > task.repeat_seconds:
            return True
        done = len(self.seconds)
        if task.relative_half_width == 0 or done < task.repeats:
            return done == task.repeats
        if done >= max(MOST, task.repeats):
            return True
        disturbed = self.disturbed
        if done >= 2 * task.repeats and disturbed.count(False) < enough(disturbed):
            return True
        quiet = [value for value, bad in zip(self.seconds, disturbed, strict=True) if not bad]
        if len(quiet) < task.repeats:
            return False
        return disturbance.relative_half_width(quiet) <= task.relative_half_width

    def facts(self, counter: energy.Counter, parts: int = 1) -> dict[str, Any]:
        """Fields of a row; `parts` is how many entries of `seconds` one repeat makes."""
        joules, method = energy.mean(counter, self.joules, sum(self.seconds))
        return {
            "seconds": [value / parts for value in self.seconds],
            "energy_joules": None if joules is None else joules / parts,
            "energy_method": method,
            **self.counters(),
        }

    def counters(self) -> dict[str, list[Any]]:
        """The counters of each repeat, and whether it was disturbed."""
        spent = [after - before for before, after in self.readings]
        columns: dict[str, list[Any]] = {
            "cpu_seconds": [usage.cpu for usage in spent],
            "involuntary": [usage.involuntary for usage in spent],
            "waited": [usage.waited for usage in spent],
            "others": [usage.others for usage in spent],
            "pressure": [usage.pressure for usage in spent],
            "steal": [usage.steal for usage in spent],
            "disturbed": self.disturbed,
        }
        return {name: [] if None in values else values for name, values in columns.items()}


def repeat(
    task: Task,
    counter: energy.Counter,
    before: Callable[[], Any],
    work: Callable[[Any], Any],
) -> Series:
    """Times `work(before())`, warm-up excluded, once or as often as `task` asks for.

    The peak of memory is read after the warm-up. Where blocks are compiled, that is done before.
    """
    if task.compile != NONE:
        work(before())
        wait(task)
        peak_memory.reset_peak(task.device)
    series = Series(torch.get_num_threads() if task.device == "cpu" else 1)
    for index in itertools.count():
        if index and index == task.warmup:
            series.peaks = peaks(task)
            series.last = None
            peak_memory.keep_blocks(task.device)
        series.last = None  # the previous one must be gone before the next is made
        prepared = before()
        wait(task)
        joules, begun, start = counter.read(), disturbance.read(), time.perf_counter()
        series.last = work(prepared)
        wait(task)
        elapsed = time.perf_counter() - start
        if index < task.warmup:
            continue
        series.readings.append((begun, disturbance.read()))
        series.seconds.append(elapsed)
        series.joules.append(counter.since(joules))
        if series.is_enough(task):
            break
    series.peaks = series.peaks or peaks(task)
    return series


def wait(task: Task) -> None:
    """Wait until the device has finished its work; the CPU always has."""
    if task.device == "cuda":
        torch.cuda.synchronize()


def peaks(task: Task) -> dict[str, Any]:
    """`peak_bytes`, the figure that curves are drawn of, and every peak the device knows."""
    highest = peak_memory.peak(task.device)
    beyond = None if highest is None else max(0, highest - task.baseline_bytes)
    return {"peak_bytes": beyond, "memory": peak_memory.peaks(task.device)}


def tokens(task: Task, length: int, batch: int | None = None, place: int | None = None) -> Tensor:
    """Random `[batch, length]`, the same on every device; for `place` see `random_rows`."""
    generator = torch.Generator().manual_seed(task.seed)
    size = (task.batch if batch is None else batch, length)
    return random_rows(task.spec, task.vocab_size, size, generator, place).to(task.device)


def random_rows(
    spec: ModelSpec,
    vocab_size: int,
    size: tuple[int, int],
    generator: torch.Generator,
    place: int | None = None,
) -> Tensor:
    """Random tokens of a `size`, `[B, T]`.

    A model that needs a separator between source and target finds one in each row, at `place`, by
    default in the middle.
    """
    made = torch.randint(vocab_size, size, generator=generator)
    mark = separator(spec.target, spec.config)
    if mark is not None:
        made[made == mark] = (mark + 1) % vocab_size
        made[:, size[1] // 2 if place is None else place] = mark
    return made


def autocast(task: Task) -> AbstractContextManager[Any]:
    """Training keeps fp32 weights and lowers the precision of single operations."""
    if task.probe not in TRAINING or task.precision == "float32":
        return nullcontext()
    return torch.autocast(task.device, DTYPES[task.precision])


def for_inference(model: Any, task: Task) -> None:
    """Weights in the precision of the sweep; those before conversion are not part of the peak."""
    model.eval()
    model.to(DTYPES[task.precision])
    peak_memory.reset_peak(task.device)


def state_bytes(state: State) -> int:
    """Memory the state keeps alive: the whole storage of every tensor, shared ones once."""
    storages = [tensor.untyped_storage() for _, tensor in named_tensors(state)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
