"""A process that answers, and processes that keep cores busy."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from benchmarks.processes import SPIN, Child, spinning

ECHO = """import sys
print("ready", flush=True)
for line in sys.stdin:
    print(2 * float(line), flush=True)
"""


def test_a_child_answers_every_line() -> None:
    with Child(["-c", ECHO]) as child:
        assert child.answer() == "ready"
        assert [child.seconds("1.5"), child.seconds("4")] == [3.0, 8.0]


def test_a_child_that_ends_is_an_error() -> None:
    with Child(["-c", "pass"]) as child, pytest.raises(RuntimeError, match="has ended"):
        child.answer()


def test_busy_processes_end_with_the_sweep() -> None:
    with pytest.raises(KeyboardInterrupt), spinning(2):
        children = psutil.Process().children()
        spinners = [child for child in children if SPIN in child.cmdline()]
        assert len(spinners) == 2
        raise KeyboardInterrupt
    assert not any(spinner.is_running() for spinner in spinners)


STARTER = """import os, subprocess, sys, time
spinner = subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid())])
print(spinner.pid, flush=True)
time.sleep(60)
"""


def test_busy_processes_end_with_whoever_started_them() -> None:
    command = [sys.executable, "-c", STARTER, SPIN]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        spinner = psutil.Process(int(starter.stdout.readline()))
        assert spinner.is_running()
        starter.kill()
    gone, alive = psutil.wait_procs([spinner], timeout=60)
    assert gone and not alive
