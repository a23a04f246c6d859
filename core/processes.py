"""How processes are started here, and how they end with the one that started them."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

START_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # of <malloc.h>
_LARGE = 1 << 18  # bytes of a block that is no part of a heap
_ROOT = str(Path(__file__).resolve().parents[1])


def command_of(module: str, call: str) -> list[str]:
    """The command of a fresh Python that calls a function of a module of ours, as `serve(3)`.

    It finds the module wherever this process was started, and nothing in the working folder.
    """
    code = f"import sys; sys.path.insert(0, {_ROOT!r}); from {module} import "
    return [sys.executable, "-P", "-c", f"{code}{call.partition('(')[0]}; {call}"]


def processors() -> int:
    """How many processors this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # another system than Linux
        return os.cpu_count() or 1


def process_context(preload: Sequence[str] = ()) -> Any:
    """What starts the processes: `multiprocessing` with a fork server where there is one.

    A child is forked from a server that has imported the modules `preload` and has computed
    nothing, which takes tens of milliseconds instead of seconds; elsewhere children are spawned.
    The server imports once, so `preload` counts before the first child only.
    """
    context: Any = multiprocessing.get_context(START_METHOD)
    if START_METHOD == "forkserver" and preload:
        context.set_forkserver_preload([*preload])
    return context


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Have the kernel (Linux) send the signal `number` to this process when its parent dies.

    The parent of a forked child is the fork server, which ends with whoever uses it.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


def leave_with_parent(status: int) -> None:
    """End this child with `status` as soon as the process that started it has ended.

    A thread waits for that; it works for every start method, and not where C code never returns.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None, "only a child of multiprocessing has a parent to wait for"

    def wait() -> None:
        parent.join()
        os._exit(status)

    threading.Thread(target=wait, daemon=True).start()


def return_free_memory() -> None:
    """Give the system back what this process has freed, where its allocator (glibc's) can."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def keep_little_free_memory() -> None:
    """Have the allocator (glibc's) keep little of what this process frees, until it ends.

    Threads take from as many heaps as there are processors, instead of eight times as many, each of
    which keeps what it has once held; larger blocks go back to the system at once. Call it before
    there is a second thread.
    """
    if set_option := getattr(ctypes.CDLL(None), "mallopt", None):
        set_option(_M_ARENA_MAX, processors())
        set_option(_M_MMAP_THRESHOLD, _LARGE)
