"""Decide whether other processes delayed a repeat, from counters of this process and its machine.

Delay by others only ever adds time, and a clock alone cannot distinguish it from work. The system
counts it: how long our threads were ready and had no core, how much of the cores we may use others
had, and what the hypervisor took. docs/probes.md states the rule.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import median
from typing import Any

import psutil

SHARE = 0.05
"""A repeat is disturbed when its delay is at least this share of its time."""
WAKE = 20e-6
"""Seconds until a sleeping thread runs again on an idle core: no delay by others."""
WINDOW = 0.25
"""Seconds over which the use by others is averaged: the system counts it in ticks of 10 ms."""
PRESSURE = Path("/proc/pressure/cpu")
TASKS = Path("/proc/self/task")
QUOTA = Path("/sys/fs/cgroup/cpu.max")
NORMAL = 1.96 * sqrt(3.14159 / 2) * 1.4826  # median of Gaussian noise, by its absolute deviation


@dataclass(frozen=True)
class CounterReading:
    """Counters at one instant, in seconds except `wakes` and `involuntary`; `None` is not
    available."""

    wall: float
    cpu: float
    """CPU seconds of all threads of this process."""
    involuntary: int | None = None
    """Times a thread of ours lost its core."""
    waited: float | None = None
    """Time that our threads were ready to run and had no core, summed over them."""
    wakes: int = 0
    """Times one of them was given a core."""
    busy: float | None = None
    """Busy seconds of the cores we may use, whoever used them."""
    steal: float | None = None
    """Seconds of these cores that the hypervisor took."""
    pressure: float | None = None
    """Time in which anything on the machine was ready and had no core."""

    def __sub__(self, earlier: CounterReading) -> CounterReading:
        def less(now: Any, before: Any) -> Any:
            return None if now is None or before is None else max(now - before, 0)

        return CounterReading(
            self.wall - earlier.wall,
            self.cpu - earlier.cpu,
            less(self.involuntary, earlier.involuntary),
            less(self.waited, earlier.waited),
            less(self.wakes, earlier.wakes),
            less(self.busy, earlier.busy),
            less(self.steal, earlier.steal),
            less(self.pressure, earlier.pressure),
        )

    @property
    def others(self) -> float | None:
        """CPU seconds of all others; `self` is a difference of two readings."""
        return None if self.busy is None else max(self.busy - self.cpu, 0.0)


def read() -> CounterReading:
    """All counters now; takes some tens of microseconds."""
    involuntary = waited = None
    wakes = 0
    if sys.platform != "win32":
        import resource  # does not exist on every system

        involuntary = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    if sys.platform == "linux":
        waited, wakes = _run_queues()
    busy, steal = _cores_in_use()
    pressure = None
    with suppress(OSError, ValueError, IndexError):
        some = PRESSURE.read_text().splitlines()[0]
        pressure = int(some.rpartition("total=")[2]) / 1e6
    return CounterReading(
        time.perf_counter(), time.process_time(), involuntary, waited, wakes, busy, steal, pressure
    )


def is_disturbed(repeat: CounterReading, around: CounterReading, threads: int, cores: int) -> bool:
    """Whether a repeat was disturbed. `repeat` and `around`, a stretch of time that holds it, are
    differences. `threads` work on `cores`, of which others may use those that are left over."""
    if repeat.waited is not None:
        if repeat.waited - WAKE * repeat.wakes > SHARE * repeat.wall:
            return True
    elif threads == 1 and repeat.cpu < (1 - SHARE) * repeat.wall:
        return True  # one thread that computes never sleeps
    used = min(threads, cores)
    if around.others is not None and around.wall >= WINDOW:
        spare = cores - used
        if around.others > (spare + SHARE * used) * around.wall:
            return True
    return around.steal is not None and around.steal > SHARE * used * around.wall


def judge(
    repeats: Sequence[tuple[CounterReading, CounterReading]], threads: int, cores: int
) -> list[bool]:
    """Judge which repeats were disturbed, each by the readings before and after it."""
    judged = []
    for place, (before, after) in enumerate(repeats):
        # The repeat and as many neighbours, on either side in turn, as make up `WINDOW`.
        first = last = place
        while repeats[last][1].wall - repeats[first][0].wall < WINDOW:
            if first == 0 and last == len(repeats) - 1:
                break
            first, last = max(first - 1, 0), min(last + 1, len(repeats) - 1)
        around = repeats[last][1] - repeats[first][0]
        judged.append(is_disturbed(after - before, around, threads, cores))
    return judged


def relative_half_width(seconds: Sequence[float]) -> float:
    """Half the 95 % interval of the median over the median; infinite for fewer than two repeats."""
    if len(seconds) < 2:
        return float("inf")
    middle = median(seconds)
    deviation = median(abs(value - middle) for value in seconds)
    return NORMAL * deviation / sqrt(len(seconds)) / middle


# ---- cores ---------------------------------------------------------------------------------------


def allowed() -> list[int]:
    """Numbers of the logical cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(psutil.cpu_count() or 1))


def free_cores(sample_seconds: float = 1.0) -> tuple[int, int]:
    """Physical cores that others leave free now, at least 1, and how many this process may use.

    A core counts as taken once others use a fifth of it. A quota of the container counts too.
    """
    cores = allowed()
    physical = _physical(cores)
    before = _cores_in_use()[0]
    time.sleep(sample_seconds)
    after = _cores_in_use()[0]
    used = 0.0 if before is None or after is None else (after - before) / sample_seconds
    taken = int(used + 0.8)
    most = physical
    with suppress(OSError, ValueError):  # "max" is no number
        quota, period = map(float, QUOTA.read_text().split())
        most = max(1, min(physical, int(quota / period)))
    return max(1, min(most, physical - taken)), most


def thread_limit() -> int | None:
    """Threads that the user allows in OMP_NUM_THREADS: a number, or one for each level."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) else None


def _physical(cores: Sequence[int]) -> int:
    """Physical cores behind logical ones; siblings share one."""
    siblings = set()
    for core in cores:
        path = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
        try:
            siblings.add(path.read_text())
        except OSError:
            logical = psutil.cpu_count() or 1
            physical = psutil.cpu_count(logical=False) or logical
            return max(1, len(cores) * physical // logical)
    return len(siblings)


def _cores_in_use() -> tuple[float | None, float | None]:
    """CPU seconds used since the machine started, and stolen, of the cores we may use."""
    try:
        every = psutil.cpu_times(percpu=True)
    except (OSError, NotImplementedError):
        return None, None
    busy = steal = 0.0
    for core in allowed():
        if core < len(every):
            times = every[core]
            idle = times.idle + getattr(times, "iowait", 0.0)
            guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
            lost = getattr(times, "steal", 0.0)
            busy += sum(times) - idle - guests - lost  # a guest's time is in user and nice too
            steal += lost
    return busy, steal


def _run_queues() -> tuple[float | None, int]:
    """Seconds our threads were ready without a core, and how often they were given one."""
    waited, wakes, readable = 0, 0, False
    try:
        for task in os.listdir(TASKS):  # noqa: PTH208  in the path of every reading
            try:
                words = (TASKS / task / "schedstat").read_text().split()
            except OSError:  # a thread that has just ended, or a kernel that does not count
                continue
            waited, wakes, readable = waited + int(words[1]), wakes + int(words[2]), True
    except (OSError, ValueError, IndexError):
        return None, 0
    return (waited / 1e9, wakes) if readable else (None, 0)
