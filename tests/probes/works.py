"""What the tests run in child processes; a module of its own so that it pickles by name."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from core.errors import UserError
from probes.measure.counters import peak_memory
from probes.measure.isolated import Report
from probes.measure.tasks.timing import Task
from probes.measure.worker import measure

MIB = 1 << 20
MAP_FIXED_NOREPLACE = 0x100000  # of <sys/mman.h>


def tell(report: Report, facts: dict[str, Any]) -> None:
    report(facts)


def environment(report: Report) -> None:
    report(dict(os.environ))


def count_threads(report: Report) -> None:
    def count(pid: int) -> int:
        return len(list(Path(f"/proc/{pid}/task").iterdir()))

    report({"child": count(os.getpid()), "server": count(os.getppid())})


def whether_loaded(report: Report, module: str) -> None:
    report({"loaded": module in sys.modules, "pid": os.getpid(), "server": os.getppid()})


def sleep_with_helper(report: Report) -> None:
    """A child that started a process of its own, as a compiler would be."""
    helper = subprocess.Popen(["sleep", "600"])
    report({"child": os.getpid(), "helper": helper.pid})
    time.sleep(600)


def fail(report: Report, message: str, for_user: bool) -> None:
    report({"before": 1})
    raise UserError(message) if for_user else ValueError(message)


def kill_self(report: Report, number: int) -> None:
    os.kill(os.getpid(), number)


def crash_if_rwkv4(report: Report, task: Task) -> None:
    """A model whose native code takes the interpreter down, beside one that works."""
    if task.spec.name == "rwkv4":
        kill_self(report, signal.SIGSEGV)
    measure(report, task)


def leave(report: Report) -> None:
    os._exit(7)


def allocate(report: Report, size: int, limit: int | None, temporary: int = 0) -> None:
    """Touch `size` bytes under a limit, after `temporary` bytes that are freed before."""
    if limit is not None:
        peak_memory.limit("cpu", limit)
    if temporary:
        del_me = torch.ones(temporary, dtype=torch.uint8)
        del del_me
    peak_memory.reset_peak("cpu")
    before = peak_memory.peak("cpu")
    block = torch.ones(size, dtype=torch.uint8)
    del block
    report({"before": before, "peak": peak_memory.peak("cpu")})


def measure_at_once(report: Report, task: Task) -> None:
    """Measure as a sweep does; what this module imports counts for both, preloaded or not."""
    measure(report, task)


def measure_later(report: Report, task: Task) -> None:
    """After large blocks came and went: from then on the C library keeps what is freed."""
    for _ in range(3):
        del_me = torch.ones(30 * MIB, dtype=torch.uint8)
        del del_me
    measure(report, task)


def measure_later_in_a_fixed_heap(report: Report, task: Task) -> None:
    """The same where the heap cannot grow in place: what is freed there is hard to return."""
    occupy_the_page_behind_the_heap()
    measure_later(report, task)


def measure_later_in_a_heap_with_a_gap(report: Report, task: Task) -> None:
    """The same where something small was put behind a large block: its pages are never the end."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    del_me = torch.ones(30 * MIB, dtype=torch.uint8)
    del del_me  # from here on blocks of that size come from the heap
    block = libc.malloc(ctypes.c_size_t(30 * MIB))
    assert libc.malloc(ctypes.c_size_t(MIB))
    libc.free(ctypes.c_void_p(block))
    measure(report, task)


def occupy_the_page_behind_the_heap() -> None:
    """Map one page 1 MiB behind the end of the heap, so that `brk` fails there."""
    heap = [line for line in Path("/proc/self/maps").read_text().splitlines() if "[heap]" in line]
    end = int(heap[-1].split()[0].split("-")[1], 16)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_FIXED_NOREPLACE
    place, size, offset = ctypes.c_void_p(end + MIB), ctypes.c_size_t(4096), ctypes.c_long(0)
    got = libc.mmap(place, size, mmap.PROT_READ, flags, -1, offset)
    assert got == end + MIB, (hex(end), got, os.strerror(ctypes.get_errno()))


def wait_for_ever(started: str) -> None:
    """Parent of the Ctrl-C test: a child that sleeps, its pids written to `started`."""
    from probes.measure import isolated

    isolated.run(write_pids_and_sleep, (started,), 600)


def write_pids_and_sleep(report: Report, started: str) -> None:
    helper = subprocess.Popen(["sleep", "600"])
    aside = Path(started + ".tmp")
    aside.write_text(f"{os.getpid()} {helper.pid}")
    aside.rename(started)
    time.sleep(600)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from tests.probes import works

    works.wait_for_ever(sys.argv[1])
