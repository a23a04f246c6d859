"""The processes of one run: process 0 leads, starts the others, and alone writes files."""

from __future__ import annotations

import io
import logging
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any

import torch
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.fabric.utilities.rank_zero import rank_zero_only
from torch import distributed

from core.errors import UserError
from core.processes import leave_with_parent, process_context
from core.stop_signals import STOPPED, Preempted

log = logging.getLogger("crossover")

HOST = "127.0.0.1"
PATIENCE = 30.0  # seconds for the end of one process to be noticed by another's communication


@dataclass(frozen=True)
class RankInfo:
    """One of the processes that share a run's batches."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    """Among the `local_world` processes on the same machine."""
    local_world: int = 1

    def all_reduce_max(self, value: int) -> int:
        """The greatest `value` of all processes; every process gets it."""
        if self.world == 1:
            return value
        values = torch.tensor(value)
        distributed.all_reduce(values, distributed.ReduceOp.MAX)
        return int(values)

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, by rank: trees of tensors and plain values."""
        if self.world == 1:
            return [value]
        buffer = io.BytesIO()
        torch.save(value, buffer)
        parts: list[Any] = [None] * self.world
        distributed.all_gather_object(parts, buffer.getvalue())
        return [torch.load(io.BytesIO(part), weights_only=True) for part in parts]


class ExternalEnvironment(LightningEnvironment):
    """Lightning's view of processes that exist already."""

    def __init__(self, member: RankInfo) -> None:
        super().__init__()
        self._member = member

    @property
    def creates_processes_externally(self) -> bool:
        return True

    def local_rank(self) -> int:
        return self._member.local_rank

    def node_rank(self) -> int:
        return self._member.rank // self._member.local_world

    def teardown(self) -> None:
        """Lightning's would delete what a launcher has said of this process to its next run."""


@contextmanager
def single_rank(follow: Callable[..., None], *args: Any) -> Iterator[RankInfo]:
    """One process that has a process group nevertheless, for strategies that need one."""
    with joined(RankInfo(), distributed.HashStore()):
        yield RankInfo()


@contextmanager
def spawn_ranks(world: int, follow: Callable[..., None], *args: Any) -> Iterator[RankInfo]:
    """Process 0 of `world`; the others call `follow(member, *args)`, which must pickle.

    All join torch's default process group. Raises `UserError` if one of them dies, `Preempted`
    if one of them was stopped before it could agree on that with the rest.
    """
    if world == 1:
        yield RankInfo()
        return
    context = process_context(["training.run", "torch._dynamo"])  # optimizers import the second
    store = distributed.TCPStore(HOST, 0, world, is_master=True, wait_for_workers=False)
    method = multiprocessing.get_start_method()
    others = [
        context.Process(
            target=_other,
            args=(RankInfo(rank, world, rank, world), store.port, method, follow, args),
        )
        for rank in range(1, world)
    ]
    threads = torch.get_num_threads()
    left = threading.Event()
    try:
        for process in others:
            process.start()
        threading.Thread(target=_watch, args=(others, left), daemon=True).start()
        with joined(RankInfo(0, world, 0, world), store):
            yield RankInfo(0, world, 0, world)
        for process in others:
            process.join()
    except RuntimeError as error:  # a collective operation, if one of the others is gone
        # What is behind an error of communication, if another process is.
        for rank, process in enumerate(others, start=1):
            process.join(2)  # its end may be seen a little later than its silence
            if process.exitcode == STOPPED:
                raise Preempted from error
            if process.exitcode not in (None, 0):
                raise UserError(_ended(rank, process, len(others))) from error
        raise
    finally:
        left.set()
        torch.set_num_threads(threads)
        for process in others:
            process.kill()  # it writes nothing, so nothing is lost
            process.join()


def _other(
    member: RankInfo, port: int, method: str, follow: Callable[..., None], args: tuple[Any, ...]
) -> None:
    # Its loader processes start as those of process 0, and not in the way that it was started.
    multiprocessing.set_start_method(method, force=True)
    leave_with_parent(STOPPED)
    rank_zero_only.rank = member.rank  # type: ignore[attr-defined]
    log.setLevel(logging.ERROR)  # process 0 says it once
    try:
        with joined(member, distributed.TCPStore(HOST, port, member.world)):
            follow(member, *args)
    except UserError as error:
        sys.exit(f"error: process {member.rank}: {error}")
    except Exception:
        parent = multiprocessing.parent_process()
        assert parent is not None, "process 0 has started this one"
        parent.join(1)
        if not parent.is_alive():  # it was killed: that it is silent is no fault of this one
            os._exit(STOPPED)
        raise


@contextmanager
def joined(member: RankInfo, store: Any) -> Iterator[None]:
    """In torch's process group, with a share of the threads. Tensors on the CPU go over gloo."""
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    torch.set_num_threads(max(1, torch.get_num_threads() // member.local_world))
    distributed.init_process_group(backend, store=store, rank=member.rank, world_size=member.world)
    try:
        yield
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


def _watch(others: list[Any], left: threading.Event) -> None:
    """End this process if it still waits for another that has died: GPUs would wait for long."""
    running = {process.sentinel: (rank, process) for rank, process in enumerate(others, start=1)}
    while running and not left.is_set():
        for sentinel in wait(list(running), timeout=1):
            rank, process = running.pop(sentinel)
            if left.wait(PATIENCE) or process.exitcode == 0:
                continue
            if process.exitcode != STOPPED:
                print(f"error: {_ended(rank, process, len(others))}", file=sys.stderr, flush=True)
            os._exit(STOPPED if process.exitcode == STOPPED else 1)


def _ended(rank: int, process: Any, others: int) -> str:
    return (
        f"process {rank} of {others + 1} ended with status {process.exitcode}; "
        "the same command continues from the newest checkpoint"
    )
