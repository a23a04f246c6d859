"""Runs in processes of their own, so that they can be killed: forked from a server that has
imported everything, because imports take longer than the runs."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, NamedTuple

from conf.launch import speak
from conf.schema import TrainConf
from models.errors import UserError
from tests.training.runs import run
from training import processes
from training.module import LanguageModel

Stop = tuple[int, int]
"""After how many whole steps which signal arrives, in the middle of the next."""


class Ended(NamedTuple):
    status: int
    """Exit status, or minus the number of the signal that ended the process."""
    err: str


@contextmanager
def server() -> Iterator[None]:
    """A fork server with the training imported; the one of other tests has other modules."""
    context: Any = multiprocessing.get_context("forkserver")
    forkserver._forkserver._stop()
    context.set_forkserver_preload(["tests.training.children"])
    yield
    forkserver._forkserver._stop()


def start(conf: TrainConf, contestant: str = "rwkv4", *stops: Stop, log: Path) -> Any:
    """The started process; what it says goes to the file `log`."""
    context: Any = multiprocessing.get_context("forkserver")
    process = context.Process(target=_main, args=(conf, contestant, stops, str(log)))
    process.start()
    return process


def end(process: Any, log: Path, timeout: float = 300) -> Ended:
    process.join(timeout)
    assert process.exitcode is not None, f"still running after {timeout} s"
    return Ended(process.exitcode, log.read_text())


def run_in_child(conf: TrainConf, contestant: str = "rwkv4", *stops: Stop) -> Ended:
    log = Path(conf.runs_dir) / "log.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    return end(start(conf, contestant, *stops, log=log), log)


def _main(conf: TrainConf, contestant: str, stops: tuple[Stop, ...], log: str) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 2)
    speak()
    # A fork server of its own would import everything again.
    multiprocessing.set_start_method("fork", force=True)
    processes.METHOD = "fork"
    arrange(stops)
    try:
        run(conf, contestant)
    except UserError as error:  # as scripts/train.py does
        sys.exit(f"error: {error}")


def arrange(stops: tuple[Stop, ...]) -> None:
    """Have signals arrive in the middle of a step, from within."""
    due = list(stops)
    inner: Any = LanguageModel.training_step

    def training_step(module: LanguageModel, batch: Any, batch_idx: int) -> Any:
        while due and module.trainer.global_step == due[0][0]:
            os.kill(os.getpid(), signal.Signals(due.pop(0)[1]))
        return inner(module, batch, batch_idx)

    LanguageModel.training_step = training_step  # type: ignore[method-assign]
