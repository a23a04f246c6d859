"""Scripts in processes of their own, forked from a server that has imported everything already.

A start then costs a tenth of a second instead of several.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conf.schema import script_path
from core.processes import process_context

ROOT = Path(__file__).resolve().parents[2]
PRELOADED = (
    "__main__",
    "scripts.cli.jobs",
    "scripts.train",
    "torch._dynamo",
    "models.rwkv4",
    "models.rwkv7",
    "models.transformer",
    "tests.faults.trainings",
    "tests.faults.refusals",
)
LONGEST = 1200.0  # seconds that a child may take, on a busy machine, before it counts as hanging


@dataclass(frozen=True)
class Ended:
    """How a child ended: exit status (negative: the signal), what it printed, how long it took."""

    status: int
    text: str
    seconds: float

    @property
    def traceback(self) -> bool:
        return "Traceback (most recent call last)" in self.text


class Child:
    """`function(*arguments)` in a fresh process, with standard output and error going to a file."""

    def __init__(self, console: Path, function: Callable[..., None], *arguments: Any) -> None:
        context = process_context(PRELOADED)
        console.parent.mkdir(parents=True, exist_ok=True)
        self._console = console
        self._start = time.monotonic()
        self.process = context.Process(target=_inside, args=(console, function, arguments))
        self.process.start()

    def wait(self, seconds: float = LONGEST) -> Ended:
        """Until it has ended; one that takes longer than `seconds` is killed."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        text = self._console.read_text(errors="replace") if self._console.is_file() else ""
        return Ended(self.process.exitcode, text, time.monotonic() - self._start)

    def signal_after(self, seconds: float, number: int) -> Ended:
        """Send a signal after `seconds`, unless it has ended by then, and wait for the end."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            os.kill(self.process.pid, number)
        return self.wait()


def script(name: str, words: Sequence[str]) -> None:
    """`python scripts/NAME.py WORDS...` in this process."""
    sys.argv = [str(ROOT / script_path(name)), *words]
    runpy.run_path(sys.argv[0], run_name="__main__")


def _inside(console: Path, function: Callable[..., None], arguments: Sequence[Any]) -> None:
    file = os.open(console, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.close(file)
    import torch

    multiprocessing.set_start_method(None, force=True)  # loader processes as usual, not as here
    torch.set_num_threads(1)  # trainings this small gain nothing from more
    function(*arguments)
