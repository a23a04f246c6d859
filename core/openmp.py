"""Threads of OpenMP wait a moment for the next loop, then sleep.

By default they spin for milliseconds at the end of every parallel loop. On a machine with one other
busy process each loop then waits for a thread that has lost its core to a thread that does nothing:
a training step took 10 to 25 times as long. Sleeping at once makes it fair, but waking costs more
than a short loop takes: on an idle machine training took up to 1.3 times and decoding 3 times as
long. docs/benchmarks/2026-11-30-waiting.md has the figures.

The libraries read their settings once, when they are loaded, so this runs before torch is imported:
every package of Crossover imports it first, and child processes inherit it. Nothing here imports
torch.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

POLICY = "OMP_WAIT_POLICY"  # of GNU's, Intel's and LLVM's library
BLOCKTIME = "KMP_BLOCKTIME"  # milliseconds of spinning, of Intel's and LLVM's
SPINS = "GOMP_SPINCOUNT"  # times to look again before sleeping, of GNU's
BRIEFLY = {POLICY: "PASSIVE", BLOCKTIME: "0", SPINS: "2000"}
"""2,000 looks take 20 to 100 microseconds, about as long as waking a thread."""


def wait_briefly(environment: MutableMapping[str, str] = os.environ) -> None:
    """Ask for it, unless whoever started this has asked for anything about waiting."""
    if not BRIEFLY.keys() & environment.keys():
        environment.update(BRIEFLY)


wait_briefly()
