"""Places that a user names: whether something can be written there, and what to say if not."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from core.errors import UserError

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
"""What a disk answers, whoever asks."""


def reason(error: BaseException) -> str:
    """Why, in a few words: `Permission denied`."""
    text = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), "")
    return f"{text or type(error).__name__:.200}"


def check_writable(place: Path, key: str = "", hint: str = "choose another folder") -> None:
    """Raise `UserError` if no folder can be or come to be there: what `key` says, and what to do.

    It only looks: it makes and writes nothing. What it cannot see fails when it is written.
    """
    try:
        foresee(place)
    except OSError as error:
        where = "" if str(place) == str(error.filename) else f", at {error.filename}"
        raise UserError(
            f"{_named(place, key)} cannot be written ({reason(error)}{where}): {hint}"
        ) from None


def _named(place: Path, key: str) -> str:
    return f"{key}={place}" if key else str(place)


def foresee(place: Path) -> None:
    """Raise the `OSError` that making and filling a folder would end in, as far as can be seen."""
    path = next(ancestor for ancestor in (place, *place.parents) if _is_there(ancestor))
    if not path.is_dir():
        if path.is_symlink():
            raise OSError(errno.ENOENT, "a link that leads to no folder", str(path))
        raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    if not os.access(path, os.W_OK | os.X_OK):
        read_only = os.statvfs(path).f_flag & os.ST_RDONLY
        number = errno.EROFS if read_only else errno.EACCES
        raise OSError(number, os.strerror(number), str(path))
    disk, is_root = os.statvfs(path), os.geteuid() == 0
    free = disk.f_bfree if is_root else disk.f_bavail
    names = disk.f_ffree if is_root else disk.f_favail
    if (disk.f_blocks and not free) or (disk.f_files and not names):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


@contextmanager
def writing(place: Path, key: str = "") -> Iterator[None]:
    """Turn a failure to write within the body into a `UserError`."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{_named(place, key)} cannot be written ({reason(error)}): choose a folder that can "
            "be, with room in it"
        ) from None


def explain(error: OSError, places: Iterable[tuple[str, str]]) -> str | None:
    """The message about a failure with a file, or None if no place is the cause.

    `places` are the paths of the configuration and their keys. A failure is a matter of places if
    the file lies in one of them, or one of them in it, and if it is the disk's.
    """
    file = error.filename if isinstance(error.filename, str) else None
    if isinstance(error.filename, bytes):
        file = os.fsdecode(error.filename)
    for key, place in sorted(places, key=lambda pair: -len(pair[1])) if file else ():
        failed, other = (
            Path(os.path.normpath(Path(path).absolute())) for path in (str(file), place)
        )
        if failed == other or failed.is_relative_to(other) or other.is_relative_to(failed):
            where = "" if failed == other else f": {file}"
            return f"{key}={place}{where} cannot be used ({reason(error)}): choose another place"
    if error.errno in DISK:
        return f"{file or 'a file'} cannot be written ({reason(error)}): make room and start again"
    return None
