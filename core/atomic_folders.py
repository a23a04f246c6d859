"""Folders that appear whole or not at all."""

from __future__ import annotations

import errno
import re
import secrets
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from core.files import sync

# What stands beside a prepared corpus, whose name is a fingerprint, while it is made or replaced.
_ASIDE = re.compile(r"(broken\.)?[0-9a-f]{16}\.[0-9a-f]{8}\.tmp")
_ABANDONED_AFTER = 24 * 3600  # seconds until a killed process's leftovers are swept


def make_folder(folder: Path, fill: Callable[[Path], None], sound: Callable[[Path], bool]) -> None:
    """Have `fill` write into a sibling of `folder`, then rename that to `folder`.

    If a `sound` folder has come to stand there meanwhile it stays and the new one is dropped; one
    that is not sound is replaced, and so is anything else that stands there. If `fill` raises,
    nothing remains. Raises `OSError`.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Remove what a killed process left long ago, and nothing else: it may be anybody's folder.
    for path in folder.parent.glob("*.tmp"):
        if _ASIDE.fullmatch(path.name):
            with suppress(FileNotFoundError):
                if time.time() - path.lstat().st_mtime > _ABANDONED_AFTER:
                    _remove(path)
    aside = folder.with_name(f"{folder.name}.{secrets.token_hex(4)}.tmp")
    aside.mkdir()
    try:
        fill(aside)
        for path in (*aside.iterdir(), aside):
            sync(path)
        for _ in range(100):  # each turn but the last lost a race against another process
            try:
                aside.rename(folder)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
            else:
                sync(folder.parent)
                return
            if sound(folder):
                return
            broken = aside.with_name(f"broken.{aside.name}")
            with suppress(FileNotFoundError):  # another process took it away
                folder.rename(broken)
                _remove(broken)
        raise OSError(errno.EBUSY, "other processes keep replacing it", str(folder))
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _remove(path: Path) -> None:
    """A folder with all that is in it, a file, or a link, but not what that leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
