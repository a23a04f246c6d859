"""Run one piece of work in a process of its own, with a time limit, whatever the work does.

A process per point makes memory peaks independent and keeps a failing point from ending the sweep.
Children are forked from a server that has torch and the models imported but has never used them,
which starts one in tens of milliseconds instead of seconds; where there is no fork server they are
spawned.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from core.environment import ROOT
from core.errors import UserError
from core.out_of_memory import is_out_of_memory
from core.processes import START_METHOD, die_with_parent, process_context
from probes.measure.counters import peak_memory
from probes.rows import ERROR, OK, OOM, TIMEOUT

Report = Callable[[dict[str, Any]], None]

LONGEST = 2000  # characters of the message of a failure


@dataclass(frozen=True)
class Outcome:
    """How a child ended (a status of `probes.rows`), and everything it reported before."""

    status: str
    error: str | None
    facts: dict[str, Any]


def preload(modules: Sequence[str]) -> None:
    """Modules the fork server imports once for all children; call before the first child.

    They must not compute with torch or touch a GPU when imported: neither threads nor CUDA
    survive a fork. One that cannot be imported is left to the children, to fail there. The script
    that runs is one of them, because every child imports it again.
    """
    if START_METHOD == "forkserver":
        # The module of the script that runs: the fork server's own word for it, "__main__", is
        # ignored before Python 3.13.
        path = getattr(sys.modules["__main__"], "__file__", None)
        if path is not None and Path(path).resolve().is_relative_to(ROOT):
            script = Path(path).resolve().relative_to(ROOT).with_suffix("")
            modules = [".".join(script.parts), *modules]
        importable = []
        for module in modules:
            with contextlib.suppress(Exception):  # an error would end the server and every child
                importlib.import_module(module)
                importable.append(module)
        process_context(importable)


def run(work: Callable[..., None], arguments: Sequence[Any], timeout_s: float) -> Outcome:
    """Call `work(report, *arguments)` in a child; `work` and its arguments must pickle.

    `report` takes a dict of facts, which are kept even if the work fails later. Nothing that
    happens in the child raises here: the status is `timeout` if it was stopped after `timeout_s`
    seconds, `oom` if an allocation failed or the system killed it, `error` for any other failure,
    `ok` otherwise. An exception on this side, Ctrl-C above all, stops the child first.
    """
    context = process_context()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_main, args=(sender, work, arguments), daemon=True)
    process.start()
    sender.close()  # the child now holds the only one, so its death ends the stream
    facts: dict[str, Any] = {}
    try:
        # Collect facts until the child reports how it ended; if it dies, the pipe ends with it.
        deadline = time.monotonic() + timeout_s
        status, error = TIMEOUT, f"stopped after {timeout_s:g} s"
        while receiver.poll(max(0.0, deadline - time.monotonic())):
            message = receiver.recv()
            if isinstance(message, tuple):
                status, error = message
                break
            facts.update(message)
    except (EOFError, OSError):
        process.join()
        code, status = process.exitcode or 0, ERROR
        if code == -signal.SIGKILL:
            status, error = OOM, "killed by the system, most likely for lack of memory"
        elif code < 0:
            error = f"the child died of {signal.Signals(-code).name}"
        else:
            error = f"the child left with exit code {code} before it had finished"
    finally:
        # End the child and every process it started (a compiler, say).
        with contextlib.suppress(ProcessLookupError, AttributeError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()  # in case it had not yet become the leader of its group
        process.join()
        receiver.close()
    return Outcome(status, error, facts)


def _main(sender: Connection, work: Callable[..., None], arguments: Sequence[Any]) -> None:
    """What the child does: report facts as dicts and, last, `(status, error)`."""
    if sys.platform == "linux":
        os.setsid()  # Ctrl-C must reach the parent only, which then ends the whole group
    die_with_parent()
    ending: tuple[str, str | None] = OK, None
    try:
        work(sender.send, *arguments)
    except BaseException as error:
        peak_memory.lift_limit()
        text = str(error)
        first = next((line.strip() for line in text.splitlines() if line.strip()), "")
        line = first if isinstance(error, UserError) else f"{type(error).__name__}: {first}"
        ending = OOM if is_out_of_memory(error) else ERROR, line[:LONGEST]
    sender.send(ending)
