"""Finding and reading checkpoints: which there are, which can be trusted, what is in one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from models import checkpoints
from models.errors import UserError
from models.files import damage
from models.formats.tensor_files import read_torch
from training.folder import RunFolder


def path_of(folder: RunFolder, step: int) -> Path:
    """Where the checkpoint of an optimizer step lies."""
    return folder.checkpoints / f"step-{step:08d}.ckpt"


def saved(folder: RunFolder) -> list[Path]:
    """Checkpoints of a run, oldest first."""
    return checkpoints.saved(folder.path)


def newest(folder: RunFolder) -> Path | None:
    """The newest undamaged checkpoint; see `models.checkpoints.newest`."""
    return checkpoints.newest(folder.path)


def choose(resume: str, folder: RunFolder) -> Path | None:
    """The undamaged checkpoint that `resume` asks for, or None to start at the beginning.

    This is the one place where a resuming run hashes a checkpoint. Raises `UserError` if what was
    asked for cannot be trusted.
    """
    if resume in ("auto", "never"):
        return newest(folder)
    if problem := damage(Path(resume)):
        raise UserError(f"checkpoint {resume}: {problem}")
    return Path(resume)


def read(path: Path) -> dict[str, Any]:
    """What a chosen checkpoint holds, in memory of its own. Raises `UserError` if it is foreign."""
    content = read_torch(path)
    if not isinstance(content, dict) or not {"crossover", "global_step"} <= content.keys():
        raise UserError(f"{path} is not a Crossover checkpoint")
    return snapshot(content)


def snapshot(tree: Any) -> Any:
    """A copy in CPU memory of nested dicts, lists and tuples of tensors and plain values."""
    if isinstance(tree, Tensor):
        return tree.detach().to("cpu", copy=True)
    if isinstance(tree, dict):
        return {key: snapshot(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(snapshot(value) for value in tree)
    return tree
