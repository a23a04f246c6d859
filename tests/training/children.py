"""Runs in processes of their own, so that they can be killed: forked from the server of
`tests/conftest.py`, which has imported everything, because imports take longer than the runs."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch

from conf.schema import TrainConf
from core import processes
from core.errors import UserError
from scripts.cli.console import setup_logging
from tests.scripts.commands import ROOT
from tests.training.runs import run
from training.checkpoints.async_io import BackgroundIO
from training.loop.module import LanguageModel

Stop = tuple[int, int]
"""After how many whole steps which signal arrives, in the middle of the next."""


class Ended(NamedTuple):
    status: int
    """Exit status, or minus the number of the signal that ended the process."""
    err: str


def start(
    conf: TrainConf | list[str],
    model: str,
    *stops: Stop,
    log: Path,
    rank: int = 0,
    env: dict[str, str] | None = None,
    record: Path | None = None,
) -> Any:
    """The started process: a run, or `python scripts/train.py` with the words of a command line.

    What it says goes to the file `log`; the signals go to the process of that `rank`.
    Each process's batches go to files in the folder `record`.
    """
    context: Any = multiprocessing.get_context("forkserver")
    log.parent.mkdir(parents=True, exist_ok=True)
    arguments = (conf, model, stops, str(log), rank, env or {}, record)
    process = context.Process(target=_main, args=arguments)
    process.start()
    return process


def end(process: Any, log: Path, timeout: float = 300) -> Ended:
    process.join(timeout)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(f"still running after {timeout} s: {log.read_text()}")
    return Ended(process.exitcode, log.read_text())


def run_in_child(conf: TrainConf, model: str = "rwkv4", *stops: Stop, **options: Any) -> Ended:
    """One run, from its start to its end; `options` are those of `start`."""
    log = Path(conf.runs_dir) / "log.txt"
    return end(start(conf, model, *stops, log=log, **options), log)


def _main(
    conf: TrainConf | list[str],
    model: str,
    stops: tuple[Stop, ...],
    log: str,
    rank: int,
    env: dict[str, str],
    record: Path | None,
) -> None:
    os.environ.update(env)
    Path(log).unlink(missing_ok=True)  # what is left of a killed run may still write to its own
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    # A fork server of its own would import everything again.
    multiprocessing.set_start_method("fork", force=True)
    processes.START_METHOD = "fork"
    arrange(stops, rank, record)
    if isinstance(conf, list):
        sys.argv = [str(ROOT / "scripts" / "train.py"), *conf]
        runpy.run_path(sys.argv[0], run_name="__main__")
        return
    setup_logging()
    try:
        run(conf, model)
    except UserError as error:  # as scripts/train.py does
        sys.exit(f"error: {error}")


def arrange(stops: tuple[Stop, ...], rank: int, record: Path | None) -> None:
    """Have signals arrive in the middle of a step, from within; forked processes inherit it."""
    due = list(stops)
    inner: Any = LanguageModel.training_step

    def training_step(module: LanguageModel, batch: Any, batch_idx: int) -> Any:
        trainer = module.trainer
        while due and trainer.global_rank == rank and trainer.global_step == due[0][0]:
            if isinstance(files := trainer.strategy.checkpoint_io, BackgroundIO):
                files.wait()  # the save before is whole, which a kill might prevent
            os.kill(os.getpid(), signal.Signals(due.pop(0)[1]))
        if record is not None:
            torch.save(batch, record / f"batch-{batch_idx:04d}-{trainer.global_rank}.pt")
        return inner(module, batch, batch_idx)

    setattr(LanguageModel, "training_step", training_step)  # noqa: B010 - mypy allows no other way
