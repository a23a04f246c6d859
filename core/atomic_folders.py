"""Folders that appear whole or not at all, made by one process while the others wait."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from core.files import sync

# What stands beside a prepared corpus, whose name is a fingerprint, while it is made or replaced.
_PARTIAL = re.compile(r"[0-9a-f]{16}\.partial")
_BROKEN = re.compile(r"(broken\.)?[0-9a-f]{16}\.[0-9a-f]{8}\.tmp")
_DAY = 24 * 3600  # seconds
_ABANDONED_AFTER = {_PARTIAL: 14 * _DAY, _BROKEN: _DAY}  # until a killed process's leftovers go
_GLANCE = 0.2  # seconds between looks at whether another process has finished
_PATIENCE = 2.0  # seconds until that is said


def make_folder(
    folder: Path,
    fill: Callable[[Path], None],
    sound: Callable[[Path], bool],
    waiting: Callable[[], None],
) -> None:
    """Have `fill` write into a sibling of `folder`, then rename that to `folder`.

    Where the file system has locks, one process does so at a time. The others call `waiting` once
    and wait; if a `sound` folder then stands there they leave it. One that is not sound is
    replaced, and so is anything else that stands there. If this process is stopped in the middle,
    `fill` finds in the next call what it had written; if `fill` fails, nothing remains. Without
    locks several may work, each in a folder of its own, of which nothing is found again. Raises
    `OSError`.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep(folder.parent)
    with alone(folder.with_name(f"{folder.name}.lock"), waiting) as (waited, is_alone):
        if waited and sound(folder):
            return
        # Two processes must not write into one folder: without a lock each has one of its own.
        end = "partial" if is_alone else f"{secrets.token_hex(4)}.tmp"
        aside = folder.with_name(f"{folder.name}.{end}")
        if aside.is_symlink() or not aside.is_dir():
            _remove(aside)
            aside.mkdir()
        try:
            fill(aside)
            for path in (*aside.iterdir(), aside):
                sync(path)
            _replace(folder, aside, sound)
        except BaseException as error:
            if isinstance(error, Exception) or not is_alone:
                _remove(aside)
            raise


def _replace(folder: Path, aside: Path, sound: Callable[[Path], bool]) -> None:
    for _ in range(100):  # each turn but the last lost a race against a process without locks
        try:
            aside.rename(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        else:
            sync(folder.parent)
            return
        if sound(folder):
            _remove(aside)
            return
        broken = folder.with_name(f"broken.{folder.name}.{secrets.token_hex(4)}.tmp")
        with suppress(FileNotFoundError):  # another process took it away
            folder.rename(broken)
            _remove(broken)
    raise OSError(errno.EBUSY, "other processes keep replacing it", str(folder))


@contextmanager
def alone(path: Path, waiting: Callable[[], None]) -> Iterator[tuple[bool, bool]]:
    """Hold the lock file `path`, which goes again; whether another process had it, and whether
    there are locks here at all.

    The lock is the kernel's: it ends with its owner, however that ends.
    """
    begun = time.monotonic()
    waited = told = False
    while True:
        is_alone = True
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                os.close(file)
                waited = True
                if not told and time.monotonic() - begun > _PATIENCE:
                    waiting()
                    told = True
                time.sleep(_GLANCE)
                continue
            is_alone = False  # a file system without locks: two may then do the same work
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), path.stat()):
                break
        os.close(file)  # its owner left and removed it between the two calls
        waited = True
    try:
        yield waited, is_alone
    finally:
        path.unlink(missing_ok=True)
        os.close(file)


def _sweep(folder: Path) -> None:
    """Remove what a killed process left long ago, and nothing else: it may be anybody's folder."""
    for path in folder.iterdir():
        limits = [limit for name, limit in _ABANDONED_AFTER.items() if name.fullmatch(path.name)]
        if limits:
            with suppress(FileNotFoundError):
                if time.time() - path.lstat().st_mtime > limits[0]:
                    _remove(path)


def _remove(path: Path) -> None:
    """A folder with all that is in it, a file, or a link, but not what that leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
