"""Finding and reading checkpoints: which there are, which can be trusted, what is in one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from core.errors import UserError
from core.files import damage
from models.formats import run_checkpoints
from models.formats.crossover import content_of
from models.formats.tensor_files import read_torch
from models.registry import ModelSpec
from training.checkpoints.plain import Unfit, check_plain
from training.checkpoints.validation import check_whole
from training.run_folder.folder import RunFolder


def path_of(folder: RunFolder, step: int) -> Path:
    """Where the checkpoint of an optimizer step lies."""
    return folder.checkpoints / f"step-{step:08d}.ckpt"


def step_of(path: Path) -> int:
    """The optimizer step in a checkpoint's name; 0 for another name."""
    return run_checkpoints.step_of(path)


def saved(folder: RunFolder) -> list[Path]:
    """Checkpoints of a run, oldest first."""
    return run_checkpoints.saved(folder.path)


def newest(
    folder: RunFolder,
    problem_of: Callable[[Path], str | None] = damage,
    way_out: str = run_checkpoints.ELSEWHERE,
) -> Path | None:
    """The newest undamaged checkpoint; see `models.formats.run_checkpoints.newest`."""
    return run_checkpoints.newest(folder.path, problem_of, way_out)


def read(path: Path, shares: bool = False) -> dict[str, Any]:
    """What a chosen checkpoint holds, in memory of its own.

    With `shares` the tensors in the parts of a sharded one are on the device `meta`: each process
    reads its own later. Raises `UserError` if it is foreign.
    """
    if run_checkpoints.is_sharded(path):
        from models.formats import sharded

        content = sharded.outline(path, _read(path / sharded.REST))
        if shares:
            return content
        parts = sharded.Shards(path)
        del content[run_checkpoints.SHARDS]
        return {key: parts.whole(value, key) for key, value in content.items()}
    return _read(path)


def _read(path: Path) -> dict[str, Any]:
    """What one file holds, which is plain."""
    content = read_torch(path)
    if not isinstance(content, dict) or not {"crossover", "global_step"} <= content.keys():
        raise UserError(f"{path} is not a Crossover checkpoint")
    try:
        check_plain(content, path.stat().st_size)
    except Unfit as error:
        raise UserError(f"{path} is not a Crossover checkpoint ({error})") from None
    return snapshot(content)


def read_whole(
    path: Path, spec: ModelSpec, precision: str | None, shares: bool = False
) -> dict[str, Any]:
    """Read what a training restores whole, and check it (`training.checkpoints.validation`).

    `shares` is that of `read`. Raises `UserError` if something is missing or wrong.
    """
    content = read(path, shares)
    try:
        check_whole(content, spec, precision)
    except Unfit as error:
        raise UserError(f"{error}: it cannot be restored") from None
    return content


def weights_of(path: Path, content: dict[str, Any]) -> dict[str, Tensor]:
    """The model's whole weights in a checkpoint of which `content` was read, by their names."""
    weights = content["state_dict"]
    if any(tensor.is_meta for tensor in weights.values()):
        weights = content_of(path, "state_dict")["state_dict"]
    return {name.removeprefix("model."): tensor for name, tensor in weights.items()}


def snapshot(tree: Any) -> Any:
    """A copy in CPU memory of nested dicts, lists and tuples of tensors and plain values."""
    if isinstance(tree, Tensor):
        return tree.detach().to("cpu", copy=True)
    if isinstance(tree, dict):
        return {key: snapshot(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(snapshot(value) for value in tree)
    return tree
