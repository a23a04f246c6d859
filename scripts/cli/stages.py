"""Commands that a command starts, one stage after the other, and how they end together."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

from core.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
STOPPED = (75, 130)
"""Exit statuses of a stage that was asked to stop."""
TERMINATED = 143  # as a shell reports a process that SIGTERM has ended


def spelled(command: tuple[str, ...]) -> str:
    """A command as a user would type it: the name of a script, then its words."""
    script, *words = command
    return f"python scripts/{script}.py {shlex.join(words)}"


def start(
    command: tuple[str, ...], threads: int | None = None, output: IO[Any] | None = None
) -> subprocess.Popen[bytes]:
    """Print a command as a user would type it, and start it; `output` takes all that it prints."""
    script, *words = command
    if output is None:
        print(f"$ {spelled(command)}", flush=True)
    environment = dict(os.environ)
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    path = str(ROOT / "scripts" / f"{script}.py")
    return subprocess.Popen(
        [sys.executable, path, *words], env=environment, stdout=output, stderr=output
    )


def finish(processes: list[subprocess.Popen[bytes]]) -> None:
    """Wait for all of them; with Ctrl-C they are interrupted too, and finish their step.

    SIGTERM is passed on. Raises `UserError` if one fails, `SystemExit` with its status if one was
    asked to stop.
    """
    try:
        statuses = [process.wait() for process in processes]
    except (KeyboardInterrupt, SystemExit) as stop:
        for process in processes if isinstance(stop, SystemExit) else ():
            process.terminate()  # Ctrl-C has reached them already
        statuses = [process.wait() for process in processes]
        raise
    for status in statuses:
        if status in STOPPED:
            sys.exit(status)
        if status:
            raise UserError(
                f"a stage ended with status {status}, see above; the same command continues"
            )


def terminate(signum: int, frame: Any) -> None:
    """What SIGTERM does: end with the status that says so, and with what was started."""
    sys.exit(TERMINATED)
