"""Connects the processes of a launcher, and passes rank 0's decision to the others.

Every process calls `training.run.train`: rank 0 decides, the others wait in `follow_rank_zero` for
its decision, which may be that there is nothing to do.
"""

from __future__ import annotations

import functools
import importlib.metadata
import itertools
import os
import pickle
import platform
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from torch import distributed

from core.errors import UserError
from core.launcher import LauncherPlace
from core.processes import die_with_parent
from training.distributed.local_processes import RankInfo, joined

CONNECT_TIMEOUT = timedelta(seconds=60)  # for all to arrive
LIBRARIES = ("torch", "lightning", "deepspeed", "numpy")  # that must be the same everywhere
GONE = re.compile("gloo|nccl|connection|socket|peer", re.IGNORECASE)  # torch's words for that


@functools.cache
def _store(place: LauncherPlace) -> Any:
    """The store all processes of a launch share, kept while this process lives."""
    serve = place.rank == 0 and not place.is_served
    try:
        return distributed.TCPStore(
            place.host,
            place.port,
            place.world,
            serve,
            timeout=CONNECT_TIMEOUT,
            wait_for_workers=False,
        )
    except distributed.DistError as error:
        raise UserError(
            f"process {place.rank} of {place.world}: no connection to {place.host}:{place.port} "
            f"within {CONNECT_TIMEOUT.seconds} s ({str(error).splitlines()[0]})"
        ) from None


_runs = itertools.count()


def _store_of_next_run(place: LauncherPlace) -> Any:
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return distributed.PrefixStore(f"attempt {attempt}, run {next(_runs)}", _store(place))


class Leader:
    """Process 0 of a launch during one run: a context manager that dismisses the others at its end
    if they have not been needed."""

    def __init__(self, place: LauncherPlace) -> None:
        die_with_parent(signal.SIGTERM)  # the parent is the launcher
        self._place = place
        self._store = _store_of_next_run(place)
        self._is_started = False

    def __enter__(self) -> Leader:
        return self

    def __exit__(self, *error: object) -> None:
        if not self._is_started:
            self._store.set("task", pickle.dumps(None))

    @contextmanager
    def spawn_ranks(self, follow: Callable[..., None], *args: Any) -> Iterator[RankInfo]:
        """Start the others on `follow`; see `local_processes.spawn_ranks`."""
        self._compare()
        self._is_started = True
        self._store.set("task", pickle.dumps((follow, args)))
        try:
            member = _member(self._place)
            with joined(member, self._store):
                yield member
        except RuntimeError as error:
            if not GONE.search(str(error)):
                raise
            raise UserError(
                "another process of this run is gone; what it said is above or in the launcher's "
                "log. The same command continues from the newest checkpoint"
            ) from error

    def _compare(self) -> None:
        """Raise `UserError` if a process is missing or has other versions of anything."""
        ours = versions()
        for rank in range(1, self._place.world):
            try:
                self._store.wait([f"versions {rank}"], CONNECT_TIMEOUT)
            except distributed.DistStoreError:
                raise UserError(
                    f"process {rank} of {self._place.world} has not come within "
                    f"{CONNECT_TIMEOUT.seconds} s"
                ) from None
            theirs = pickle.loads(self._store.get(f"versions {rank}"))
            different = [
                f"{name} {theirs.get(name)} there, {ours.get(name)} here"
                for name in sorted({*ours, *theirs} - {"host"})
                if theirs.get(name) != ours.get(name)
            ]
            if different:
                raise UserError(
                    f"process {rank} on {theirs['host']} differs from process 0 on {ours['host']}: "
                    f"{'; '.join(different)}. Install the same everywhere"
                )


def follow_rank_zero(place: LauncherPlace) -> None:
    """Do what process 0 says, for one run. Leaves with status 1 and one line if that fails."""
    die_with_parent(signal.SIGTERM)
    rank_zero_only.rank = place.rank  # type: ignore[attr-defined]
    try:
        store = _store_of_next_run(place)
        store.set(f"versions {place.rank}", pickle.dumps(versions()))
        while True:  # process 0 may be preparing a corpus
            try:
                store.wait(["task"], timedelta(seconds=30))
                break
            except distributed.DistStoreError:
                store.num_keys()  # fails if process 0 is gone
        task = pickle.loads(store.get("task"))
        if task is not None:
            follow, args = task
            member = _member(place)
            with joined(member, store):
                follow(member, *args)
    except (UserError, RuntimeError) as error:
        if not isinstance(error, UserError) and not GONE.search(str(error)):
            raise
        message = str(error) if isinstance(error, UserError) else "the others are gone"
        print(f"error: process {place.rank}: {message}", file=sys.stderr)
        sys.exit(1)


def _member(place: LauncherPlace) -> RankInfo:
    return RankInfo(place.rank, place.world, place.local_rank, place.local_world)


def versions() -> dict[str, str]:
    """What has to be equal in all processes of a run, and the host to name one that differs."""
    facts = {"host": socket.gethostname(), "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            facts[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            facts[name] = "missing"
    return facts
