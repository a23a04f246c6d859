"""Children are started in one way, and end with whoever started them."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from core import processes

ROOT = Path(__file__).resolve().parents[2]
CHILD = """
import os, sys, time
from core import processes

def stay(ready):
    processes.leave_with_parent(75)
    ready.set()
    time.sleep(600)

if __name__ == "__main__":
    processes.START_METHOD = "fork"
    context = processes.process_context()
    ready = context.Event()
    child = context.Process(target=stay, args=(ready,))
    child.start()
    ready.wait()
    print(child.pid, flush=True)
    os._exit(0)
"""

THREADS = """
import threading
import psutil
from core import processes

processes.processors = lambda: 1
processes.keep_little_free_memory()
before, pins = psutil.Process().memory_info().rss, []

def work(begin, end):
    begin.wait()
    blocks = [b"x" * (20_000 + i % 2) for i in range(1000)]
    pins.append(blocks[-1])  # so that the heap cannot shrink at its end
    del blocks
    end.set()
    last.wait()  # or the next thread would take over the heap

turns, last = [threading.Event() for _ in range(9)], threading.Event()
for begin, end in zip(turns, turns[1:]):
    threading.Thread(target=work, args=(begin, end)).start()
turns[0].set()
turns[-1].wait()
print(psutil.Process().memory_info().rss - before)
last.set()
"""


def test_the_context_is_that_of_the_start_method(monkeypatch: pytest.MonkeyPatch) -> None:
    assert processes.process_context().get_start_method() == processes.START_METHOD
    monkeypatch.setattr(processes, "START_METHOD", "spawn")
    assert processes.process_context(["nowhere"]).get_start_method() == "spawn"
    assert processes.START_METHOD in multiprocessing.get_all_start_methods()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the child is forked")
def test_a_child_leaves_with_its_parent() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHILD], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    with suppress(psutil.NoSuchProcess):  # it may be quicker
        psutil.Process(int(done.stdout)).wait(timeout=60)


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs an allocator that can"
)
def test_freed_memory_goes_back() -> None:
    def held() -> int:
        return psutil.Process().memory_info().rss

    blocks = [bytes(20_000) for _ in range(4000)]  # 80 MB that malloc takes from its heap
    pins = blocks[::100]  # so that the heap cannot shrink at its end
    before = held()
    del blocks
    processes.return_free_memory()
    assert before - held() > 40 << 20
    assert len(pins) == 40


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs an allocator with such options"
)
def test_threads_that_are_done_keep_little() -> None:
    done = subprocess.run([sys.executable, "-c", THREADS], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 60 << 20  # 160 MB where each thread has a heap of its own
