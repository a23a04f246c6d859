"""Noticing that a file in use is no longer the one that was opened."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from core.errors import UserError


class FileChangeGuard:
    """Remembers files as they are now: number, size and time of the last change."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._stamps = {path: _stamp(path) for path in paths}

    def check(self) -> None:
        """Raise `UserError` if one has changed or is gone.

        Check before reading, and after it, to trust what was read.
        """
        for path, before in self._stamps.items():
            try:
                changed = "changed" if _stamp(path) != before else ""
            except OSError:
                changed = "disappeared"
            if changed:
                raise UserError(
                    f"{path} {changed} while it was in use, and nothing more was read from it. The "
                    "same command prepares it again and continues from the newest checkpoint"
                )


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns
