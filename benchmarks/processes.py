"""Other processes: one that answers, to be measured in turns, and those that keep cores busy."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO

# Ends with whoever started it, however that ends.
SPIN = """import os, sys
while os.getppid() == int(sys.argv[1]):
    for _ in range(1_000_000):
        pass
"""


class Child:
    """A process of Python that answers each line of its standard input with a line."""

    def __init__(
        self, arguments: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def answer(self) -> str:
        """The next line it writes. Raises `RuntimeError` if it has ended."""
        pipe: IO[str] | None = self._process.stdout
        assert pipe is not None
        if not (line := pipe.readline()):
            raise RuntimeError("the process to be measured has ended; its error stands above")
        return line.strip()

    def seconds(self, work: str) -> float:
        """Seconds that it took for what the line `work` asks for."""
        pipe: IO[str] | None = self._process.stdin
        assert pipe is not None
        pipe.write(f"{work}\n")
        pipe.flush()
        return float(self.answer())


@contextmanager
def spinning(count: int) -> Iterator[None]:
    """Run `count` processes that keep a core busy each, for the duration of the context."""
    command = [sys.executable, "-c", SPIN, str(os.getpid())]
    # Ctrl-C is for this process, which ends them. They stay in its session: Linux shares cores
    # between sessions first, whose priorities may differ.
    processes = [subprocess.Popen(command, process_group=0) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
