"""Processes that torchrun, srun or submitit have started: which of them this one is.

These launchers start the same command several times and describe its place in environment
variables of theirs; `training.distributed.rendezvous` brings the processes together.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from core.errors import UserError


@dataclass(frozen=True)
class LauncherPlace:
    """This process among those of one launch, and the address where process 0 listens."""

    rank: int
    world: int
    local_rank: int
    local_world: int
    host: str
    port: int
    is_served: bool = False
    """Whether the launcher itself listens there."""


def detect_launcher() -> LauncherPlace | None:
    """The place of this process, or None if it was started alone."""
    number = {key: int(text) for key, text in os.environ.items() if text.isdecimal()}
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return LauncherPlace(
            number["RANK"],
            number["WORLD_SIZE"],
            number["LOCAL_RANK"],
            number["LOCAL_WORLD_SIZE"],
            os.environ["MASTER_ADDR"],
            number["MASTER_PORT"],
            os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        )
    if number.get("SLURM_STEP_NUM_TASKS", 1) > 1:  # set by srun, not by sbatch alone
        world, nodes = number["SLURM_STEP_NUM_TASKS"], number["SLURM_STEP_NUM_NODES"]
        first = first_host(os.environ["SLURM_STEP_NODELIST"])
        port = 20000 + (number["SLURM_JOB_ID"] * 31 + number.get("SLURM_STEP_ID", 0)) % 20000
        return LauncherPlace(
            number["SLURM_PROCID"], world, number["SLURM_LOCALID"], world // nodes, first, port
        )
    if number.get("SUBMITIT_LOCAL_NTASKS", 1) > 1:
        world = number["SUBMITIT_LOCAL_NTASKS"]
        port = 20000 + number["SUBMITIT_LOCAL_JOB_ID"] % 20000
        rank = number["SUBMITIT_LOCAL_GLOBALID"]
        return LauncherPlace(
            rank, world, number["SUBMITIT_LOCAL_LOCALID"], world, "127.0.0.1", port
        )
    return None


def first_host(nodes: str) -> str:
    """The first of SLURM's list, such as `node[003-007,9],login`."""
    name, _, rest = nodes.partition("[")
    if not rest:
        return nodes.split(",")[0]
    if "," in name:
        return name.split(",")[0]
    return name + re.split("[-,\\]]", rest)[0]


def processes_of(devices: int) -> int:
    """Processes of a run: those of the launcher, else as many as `trainer.devices` says.

    Raises `UserError` if the two contradict each other.
    """
    place = detect_launcher()
    if place is None:
        return devices
    if devices not in (1, place.local_world):
        raise UserError(
            f"trainer.devices={devices}, but the launcher has started {place.local_world} "
            "processes on this machine: leave trainer.devices out"
        )
    if place.world % place.local_world:
        raise UserError(
            f"{place.world} processes, {place.local_world} of them on this machine: every machine "
            "must have the same number"
        )
    return place.world
