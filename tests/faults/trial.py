"""One trial of a damaged, foreign or hostile input: run what reads it, and judge how that ended.

A module of trials has one function `trials(count, seed, folder)`, a `Trials`: it makes `count`
inputs below `folder`, drawn with `seed`, and gives for each a description and what went wrong, or
None. `run` and `fault` are what such a module needs:

    ended = run(place / "console", script, "report", [f"runs=[{place}]"])
    yield description, fault(ended, marker=place / "executed")
"""

from __future__ import annotations

import contextlib
import io
import resource
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psutil

from tests.faults.child import Child, Ended

Trial = tuple[str, str | None]
"""What was tried, and what went wrong (None: nothing)."""
Trials = Callable[[int, int, Path], Iterator[Trial]]
"""`count`, `seed`, and an empty folder of its own."""

LIMIT = 10.0  # seconds after which a child that reads a hostile input counts as hanging
COMPUTING = 30.0  # the same of processor time: work of 8 s takes longer where others share caches
BUSY = 600.0  # the same where the machine, not the child, is slow
MEMORY = 4 << 30  # bytes that it may map beyond what it has at its start
HANGS = "hangs"  # what `run` adds to the text of a child that it had to end


def run(console: Path, function: Callable[..., None], *arguments: Any) -> Ended:
    """`function(*arguments)` in a process of its own, printing to `console`.

    It gets `LIMIT` seconds, or more while it computes, and `MEMORY` bytes; `function` is of a
    module, not nested. `script` of `tests.faults.child` is one: it runs a script with its words.
    It hangs if it computes nothing for another `LIMIT` seconds: among many other processes, one
    that is not done may get no processor for a second or two.
    """
    child = Child(console, _limited, function, arguments)
    start = moved = time.monotonic()
    spent = 0.0
    while child.process.exitcode is None:
        child.process.join(0.05 if time.monotonic() - start < LIMIT else 1.0)
        now, before = time.monotonic(), spent  # the clock and the processor
        if child.process.exitcode is None and now - start >= LIMIT:
            spent = _processor_time(child.process.pid)
            moved = now if spent > before else moved
            if now - start >= BUSY or now - moved >= LIMIT or spent >= COMPUTING:
                ended = child.wait(0)
                return Ended(ended.status, f"{ended.text}\n{HANGS}", ended.seconds)
    return child.wait(0)


def fault(
    ended: Ended, marker: Path | None = None, refused: bool | None = None, lines: int | None = None
) -> str | None:
    """What is wrong with how a child ended, or None.

    Right is status 0, or status 2 with a line "error: ..."; with `refused`, only the second (True)
    or the first (False). `marker` is a file that only executed code makes. `lines` is the largest
    number of lines it may print.
    """
    text = [line for line in ended.text.splitlines() if line.strip()]
    last = text[-1][:300] if text else "nothing said"
    if marker is not None and marker.exists():
        return "executed"
    if text and text[-1] == HANGS:
        return f"hangs: {text[-2][:300] if len(text) > 1 else 'nothing said'}"
    if ended.traceback:
        return f"a traceback: {last}"
    if ended.status not in (0, 2):
        return f"status {ended.status}: {last}"
    if refused is not None and refused != (ended.status == 2):
        return f"status {ended.status}, {'taken' if refused else 'refused'}: {last}"
    if ended.status == 2 and not any(line.startswith("error: ") for line in text):
        return f"refused without a message: {last}"
    if ended.status == 2 and "\x1b" in ended.text:
        return f"a terminal would obey: {ended.text!r:.300}"
    if lines is not None and len(text) > lines:
        return f"{len(text)} lines, the first: {text[0][:300]}"
    return None


def captured(limit: AbstractContextManager[None], work: Callable[[], object]) -> tuple[object, str]:
    """What `work()` gives, or the status it exits with, and all that it printed.

    It runs in this process, within `limit`. What it raises is printed as a traceback.
    """
    console = io.StringIO()
    status: object = 0
    with contextlib.redirect_stderr(console), contextlib.redirect_stdout(console), limit:
        try:
            status = work()
        except SystemExit as end:
            status = end.code
        except BaseException:
            traceback.print_exc(file=console)
    return status, console.getvalue()


def limit_memory() -> None:
    """Let this process map `MEMORY` bytes more than now, and no more."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = psutil.Process().memory_info().vms + MEMORY
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _limited(function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    limit_memory()
    function(*arguments)


def _processor_time(pid: int | None) -> float:
    """Seconds that a process and its children have computed."""
    total = 0.0
    try:
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            times = one.cpu_times()
            total += times.user + times.system
    except psutil.NoSuchProcess:
        pass
    return total
