"""Which checkpoints a run's folder holds, and which of them can be trusted."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from models.errors import UserError
from models.files import damage

log = logging.getLogger("crossover")

FOLDER = "checkpoints"  # below the run's
PATTERN = re.compile(r"step-(\d{8})\.ckpt")


def saved(run: Path) -> list[Path]:
    """Checkpoints of the run whose folder is `run`, oldest first."""
    folder = run / FOLDER
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if PATTERN.fullmatch(path.name))


def newest(run: Path) -> Path | None:
    """The newest undamaged checkpoint; says so when it has to pass over a damaged one.

    Raises `UserError` if there are checkpoints but none can be trusted.
    """
    candidates = saved(run)
    for path in reversed(candidates):
        problem = damage(path)
        if problem is None:
            return path
        log.warning("checkpoint %s is damaged (%s); trying the one before it", path, problem)
    if candidates:
        raise UserError(
            f"{run / FOLDER}: every checkpoint is damaged; "
            "resume=never starts again and keeps the old folder aside"
        )
    return None
