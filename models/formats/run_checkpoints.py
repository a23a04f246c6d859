"""Which checkpoints a run's folder holds, and which of them can be trusted."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path

from core.errors import UserError
from core.files import damage, is_sealed

log = logging.getLogger("crossover")

FOLDER = "checkpoints"  # below the run's
FROZEN = "frozen.safetensors"  # beside it, where only a part of the model is trained
PATTERN = re.compile(r"step-(\d{8})\.ckpt")
SHARDS = "shards"
"""Key of what was read of a sharded checkpoint, with its path."""
ASIDE = re.compile(r"\.step-\d{8}\.ckpt\.(new|old)")
"""Names of sharded checkpoints that are being made or deleted."""


def step_of(path: Path) -> int:
    """The optimizer step in a checkpoint's name; 0 for another name."""
    match = PATTERN.fullmatch(path.name)
    return int(match[1]) if match else 0


def is_sharded(path: Path) -> bool:
    """Whether a checkpoint is a folder, with a part of each process (`models.formats.sharded`)."""
    return path.suffix == ".ckpt" and is_sealed(path)


def is_there(path: Path) -> bool:
    """Whether there is something that can be a checkpoint: a file, or a sharded one."""
    return path.is_file() or is_sharded(path)


def aside_of(path: Path) -> Path:
    """Where a sharded checkpoint is made, by all processes alike."""
    return path.with_name(f".{path.name}.new")


def saved(run: Path) -> list[Path]:
    """Checkpoints of the run whose folder is `run`, oldest first.

    Raises `UserError` if there is something in the place of their folder that is none.
    """
    folder = run / FOLDER
    try:
        return sorted(path for path in folder.iterdir() if PATTERN.fullmatch(path.name))
    except FileNotFoundError:
        if not folder.is_symlink():
            return []
        raise UserError(f"{folder} is a link that leads nowhere") from None
    except OSError as error:
        raise UserError(f"{folder} is no folder that can be read ({error.strerror})") from None


ELSEWHERE = "bring back a sound one, or name another run or file"
"""The way out where the damaged run is only read."""


def newest(
    run: Path, problem_of: Callable[[Path], str | None] = damage, way_out: str = ELSEWHERE
) -> Path | None:
    """The newest undamaged checkpoint; says so when it has to pass over a damaged one.

    `problem_of` says why one cannot be used. Raises `UserError`, with the `way_out`, if there are
    checkpoints but none can be trusted.
    """
    candidates, problems = saved(run), []
    for path in reversed(candidates):
        problem = problem_of(path)
        if problem is None:
            return path
        problems.append(problem)
        if path != candidates[0]:
            log.warning("checkpoint %s is damaged (%s); trying the one before it", path, problem)
    if candidates:
        raise UserError(
            f"{run / FOLDER}: every checkpoint is damaged (the oldest: {problems[-1]}); {way_out}"
        )
    return None
