"""Threads of OpenMP wait asleep, not spinning.

By default they spin at the end of every parallel loop. On a machine with one other busy process
each loop then waits for a thread that has lost its core to a thread that does nothing: a training
step took 10 to 25 times as long. The libraries read their settings once, when they are loaded, so
this runs before torch is imported: every package of Crossover imports it first, and child processes
inherit it. Nothing here imports torch.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

POLICY = "OMP_WAIT_POLICY"  # of GNU's, Intel's and LLVM's library
BLOCKTIME = "KMP_BLOCKTIME"  # milliseconds of spinning, of Intel's and LLVM's
SPINS = "GOMP_SPINCOUNT"  # of GNU's


def wait_asleep(environment: MutableMapping[str, str] = os.environ) -> None:
    """Ask for it, unless whoever started this has asked for anything about waiting."""
    if not {POLICY, BLOCKTIME, SPINS} & environment.keys():
        environment[POLICY] = "PASSIVE"
        environment[BLOCKTIME] = "0"


wait_asleep()
