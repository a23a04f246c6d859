"""Being asked to stop: finish the step, save, say how to go on, and leave with status 75."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from types import FrameType
from typing import Any, ClassVar

log = logging.getLogger("crossover")

STOPPED = 75  # EX_TEMPFAIL of sysexits.h: try the same again
INTERRUPTED = 130  # as a shell reports a process that Ctrl-C has ended
SLURM_JOB = "SLURM_JOB_ID"  # set by SLURM in its jobs


class Preempted(SystemExit):
    """The run was asked to stop, and everything is saved. Ends the process with status 75.

    `step` is the one that was saved, or None if there was nothing to save. Not an `Exception`, so
    that neither a logger nor a multirun takes it for a failure and goes on.
    """

    def __init__(self, step: int | None = None, requeue: bool = False) -> None:
        super().__init__(STOPPED)
        self.step = step
        self.requeue = requeue


class Signals:
    """A context in which SIGTERM and SIGINT ask to stop, as do SIGUSR1 and SIGUSR2 under SLURM,
    which also ask to be queued again.

    While `patient`, a signal is only noted in `asked`: the training loop looks there after each
    step. Otherwise it raises `Preempted` at once. A second SIGINT ends the process.
    """

    late: ClassVar[Signals | None] = None
    """The last context that was asked to stop when it had nothing left to do."""

    def __init__(self, quiet: bool = False) -> None:
        self.asked = False
        self.requeue = False
        self.patient = False
        self._quiet = quiet
        self._interrupts = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            numbers = [signal.SIGTERM, signal.SIGINT]
            if SLURM_JOB in os.environ:
                numbers += [signal.SIGUSR1, signal.SIGUSR2]
            self._before = {number: signal.signal(number, self._handle) for number in numbers}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self.asked and error[0] is None:
            Signals.late = self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:  # nothing is tidied up but the terminal
                if sys.stderr.isatty():
                    os.write(2, b"\x1b[?25h\n")  # the live line hides the cursor
                os._exit(INTERRUPTED)
        if self.asked:
            return
        self.asked = True
        self.requeue = number in (signal.SIGUSR1, signal.SIGUSR2)
        if not self.patient:
            raise Preempted(requeue=self.requeue)
        if not self._quiet:  # not through a buffer, which this may have interrupted
            name = signal.Signals(number).name
            os.write(2, f"\n{name}: finishing the step; Ctrl-C (again) stops at once\n".encode())


def stop_before_more() -> None:
    """Raise `Preempted` if the work before was asked to stop too late to leave anything undone."""
    late, Signals.late = Signals.late, None
    if late is None:
        return
    log.warning("stopped (exit status %d); run the same command again to continue", STOPPED)
    if late.requeue:
        requeue()
    raise Preempted


def requeue() -> None:
    """Ask SLURM to start this job again; it will run the same command."""
    job = os.environ[SLURM_JOB]
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = (getattr(error, "stderr", "") or str(error)).strip()
        log.warning("SLURM did not requeue job %s: %s", job, reason)
    else:
        log.warning("SLURM has requeued job %s", job)
