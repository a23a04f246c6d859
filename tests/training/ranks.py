"""Several runs of two processes in one launch: in a module of its own, so that children can import
it. Importing takes longer than the runs."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.multiprocessing as mp
from torch.distributed import TCPStore

from conf.schema import TrainConf
from core.errors import UserError
from tests.training.runs import run
from training.run_folder.folder import RunFolder

WORLD = 2


@dataclass(frozen=True)
class Job:
    """A run, perhaps of what lies there after another was killed behind its save at `middle`."""

    conf: TrainConf
    model: str
    continues: Path | None = None
    middle: int = 0


def launch(jobs: list[Job], folder: Path) -> list[str]:
    """All jobs, one after the other, in two processes as torchrun would have started them.

    The messages of the `UserError`s that jobs ended with, or empty strings.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    messages = folder / "messages.pt"
    method = "forkserver"
    mp.start_processes(_rank, (store.port, jobs, messages), nprocs=WORLD, start_method=method)
    return torch.load(messages)


def _rank(rank: int, port: int, jobs: list[Job], messages: Path) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "TORCHELASTIC_RUN_ID": "test",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(WORLD),
        "LOCAL_WORLD_SIZE": str(WORLD),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    said = []
    for job in jobs:
        if rank == 0 and job.continues is not None:
            interrupted(RunFolder(job.continues), RunFolder(folder_of(job.conf)), job.middle)
        try:
            run(job.conf, job.model)
            said.append("")
        except UserError as error:
            said.append(str(error))
    if rank == 0:
        torch.save(said, messages)


def folder_of(conf: TrainConf) -> Path:
    return Path(conf.runs_dir) / (conf.name or "run")


def interrupted(whole: RunFolder, copy: RunFolder, step: int) -> None:
    """What would lie there had the run been killed after its save at a step."""
    copy.checkpoints.mkdir(parents=True)
    shutil.copy(whole.config, copy.config)
    for path in whole.checkpoints.glob(f"step-{step:08d}.*"):
        if path.is_dir():  # a sharded one
            shutil.copytree(path, copy.checkpoints / path.name)
        else:
            shutil.copy(path, copy.checkpoints)
