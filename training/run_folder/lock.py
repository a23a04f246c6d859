"""One process works on a run; a second one is refused, with the owner's name."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from core.errors import UserError
from core.parsing import read_object
from training.run_folder.folder import RunFolder

log = logging.getLogger("crossover")

FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
NOT_A_FILE = (errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.ENODEV)  # a folder, a link, a device


class Busy(UserError):
    """Another process is working on the run."""


@contextmanager
def owned(folder: RunFolder) -> Iterator[None]:
    """Own the run's folder, making it if need be; one that stays empty is removed again.

    The lock is a record lock of the kernel on the file `lock`: it ends with this process however
    that ends, and forked loader processes do not inherit it. Raises `Busy`, naming the owner, if
    another process has it.
    """
    made = [path for path in (folder.path, *folder.path.parents) if not path.exists()]
    file = _acquire(folder)
    place = os.open(folder.path, os.O_RDONLY)  # stays right if the folder is renamed
    try:
        yield
    finally:
        with suppress(FileNotFoundError):  # somebody has deleted the folder meanwhile
            os.unlink(folder.lock.name, dir_fd=place)
        os.close(place)
        os.close(file)
        with suppress(OSError):  # not empty
            for path in made:
                path.rmdir()


def _acquire(folder: RunFolder) -> int:
    while True:
        folder.path.mkdir(parents=True, exist_ok=True)
        try:
            file = os.open(folder.lock, FLAGS, 0o644)
        except FileNotFoundError:  # another process has just removed the folder it had made
            continue
        except OSError as error:
            if error.errno in NOT_A_FILE:
                raise UserError(
                    f"{folder.lock} is not a file of ours ({error.strerror}): move it away"
                ) from None
            raise
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise UserError(f"{folder.lock} is not a file: move it away")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                os.close(file)
                raise Busy(refusal(folder)) from None
            log.warning("%s: this file system has no locks (%s); take care", folder.path, error)
        try:
            is_still_there = os.path.samestat(os.fstat(file), folder.lock.stat())
        except FileNotFoundError:
            is_still_there = False
        if is_still_there:
            owner = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
            os.ftruncate(file, 0)
            os.write(file, json.dumps(owner).encode() + b"\n")
            return file
        os.close(file)  # its owner left and removed it between the two calls


def refusal(folder: RunFolder) -> str:
    """Who owns a run, and what to do."""
    try:
        owner = read_object(folder.lock, most=1 << 10)
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(owner["since"]))
        who = f"process {owner['pid']!s:.20} on {owner['host']!s:.100}, since {since}"
    except (UserError, OSError, ValueError, KeyError, TypeError, OverflowError):
        # just being written
        who = "another process"
    return (
        f"{folder.path} is being worked on by {who}. Wait for it or stop it, "
        "or choose another name="
    )
