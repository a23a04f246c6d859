"""Peak memory of this process, and a limit on it.

On a GPU the peak is what tensors asked for (`torch.cuda.max_memory_allocated`). On the CPU it is
the largest resident size the kernel saw (`VmHWM`), less the pages of mapped files: library code,
tens of MiB that come in as operators are first used. What is left also holds the interpreter
and torch: a child process that only imports them is measured the same way and subtracted.

What the C library keeps of freed blocks would be part of that, and depends on all that happened
before, down to the process that this one was forked from: the same pass can differ by a quarter
between two sweeps and not at all within one. So the peak is that of a pass before the timed ones,
in which freed blocks go back to the system at once (`return_blocks`); timed ones keep them
(`keep_blocks`), as a process does that has run for a while.
"""

from __future__ import annotations

import ctypes
import sys
from mmap import PAGESIZE
from pathlib import Path

import torch

from core.processes import return_free_memory

MIB = 1 << 20
STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")

# Of <malloc.h>: parameters of mallopt, and the highest values it takes.
M_TRIM_THRESHOLD, MOST_TRIM = -1, (1 << 31) - 1
M_MMAP_THRESHOLD, MOST_MMAP = -3, 32 << 20
LEAST_MMAP = 64 << 10  # bytes of a block that is mapped by itself, when blocks are returned
LEAST_TRIM = 128 << 10  # free bytes at the end of the heap that are returned at once

LARGEST_FREE = 64 << 20  # bytes of the largest block that is looked for in the heap

MADV_DONTNEED = 4  # of <sys/mman.h>

# Of glibc's chunks: the word before a block holds its size, and in its low bits how it was made.
WORD, IS_MMAPPED = ctypes.sizeof(ctypes.c_size_t), 2


def reset_peak(device: str) -> str:
    """Forget the peak so far, where the system allows it; says what `peak` will then measure."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return "torch.cuda.max_memory_allocated, minus an import-only child"
    if sys.platform != "linux":
        return f"not measured on {sys.platform}"
    # Blocks freed but kept by the allocator would count as memory of what runs next.
    return_free_memory()
    try:
        CLEAR_REFS.write_text("5")  # sets the kernel's peak back to the present size
    except OSError:
        return "VmHWM of the whole child less mapped files, minus an import-only child"
    return "VmHWM since the model was built less mapped files, minus an import-only child"


def peak(device: str) -> int | None:
    """Bytes at the highest point since `reset_peak`; `None` where it cannot be measured."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    if sys.platform != "linux":
        return None
    return _status("VmHWM") - _status("RssFile")


def return_blocks(device: str) -> bool:
    """Let every freed block go back to the system at once; whether the C library can do that."""
    if device != "cpu" or not _mallopt(M_MMAP_THRESHOLD, LEAST_MMAP):
        return False
    _mallopt(M_TRIM_THRESHOLD, LEAST_TRIM)
    _retire_free_blocks()
    return True


def keep_blocks(device: str) -> None:
    """Let the C library keep what is freed, and have as much as the peak so far: from here on time
    counts, and fetching pages from the system must not be part of it."""
    if device != "cpu" or not _mallopt(M_MMAP_THRESHOLD, MOST_MMAP):
        return
    _mallopt(M_TRIM_THRESHOLD, MOST_TRIM)
    missing = _status("VmHWM") - _status("VmRSS")
    blocks = [torch.zeros(MIB, dtype=torch.uint8) for _ in range(missing // MIB)]
    del blocks


def _retire_free_blocks() -> None:
    """Return the pages of every free block of the heap, and never use such a block again.

    `malloc_trim` returns pages, but not the blocks: tensors would be cut from them, and stay
    resident once freed. Here they are taken, largest first, until the next one is mapped anew.
    """
    return_free_memory()
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    size = LARGEST_FREE
    while size >= LEAST_MMAP:
        start = libc.malloc(ctypes.c_size_t(size))
        if start is None or ctypes.c_size_t.from_address(start - WORD).value & IS_MMAPPED:
            libc.free(ctypes.c_void_p(start))
            size //= 2
            continue
        first, end = -(-start // PAGESIZE) * PAGESIZE, (start + size) // PAGESIZE * PAGESIZE
        libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(end - first), MADV_DONTNEED)


def _mallopt(parameter: int, value: int) -> bool:
    """Whether there is such a function (glibc has it) and it takes the value."""
    function = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return function is not None and bool(function(parameter, value))


def peaks(device: str) -> dict[str, int]:
    """Every peak the device knows, in bytes, nothing subtracted.

    On a GPU `allocated` by tensors, `reserved` by torch's allocator, and `device`: all that is in
    use on the card now, the driver's share and other processes included. On a CPU `resident`.
    """
    if device == "cuda":
        free, total = torch.cuda.mem_get_info()
        return {
            "allocated": torch.cuda.max_memory_allocated(),
            "reserved": torch.cuda.max_memory_reserved(),
            "device": total - free,
        }
    return {} if sys.platform != "linux" else {"resident": _status("VmHWM")}


def limit(device: str, size: int) -> None:
    """Let allocations fail once this process holds `size` bytes more than now.

    On the CPU the limit is on private memory (`RLIMIT_DATA`), so library code does not count, and
    there is one on Linux only. On a GPU it is a share of the card for torch's allocator.
    """
    if device == "cuda":
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, size / total))
    elif sys.platform == "linux":
        _limit_data(_status("VmData") + size)


def lift_limit() -> None:
    """Undo `limit` on the CPU, so that a process that ran into it can still report."""
    if sys.platform == "linux":
        _limit_data(None)


def _limit_data(size: int | None) -> None:
    import resource  # does not exist on every system

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (hard if size is None else size, hard))


def _status(name: str) -> int:
    """A size from /proc/self/status, in bytes."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{STATUS} has no line {name}")
