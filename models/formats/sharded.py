"""A checkpoint in parts: the folder `step-N.ckpt/`, to which every process has added its own.

| file | holds |
|---|---|
| `shard-*.safetensors` | a process's shares of weights and moments, as `torch.distributed.checkpoint` writes them |
| `rest.ckpt` | everything else, as in a checkpoint that is one file, with None where a share was |
| `files.json` | size and SHA-256 of each; the manifest beside the folder has those of this file |

A tensor's name in the shards is its place in the checkpoint, `state_dict/model.emb.weight`. Where
each part lies in its tensor stands in the safetensors' own metadata, so that nothing is unpickled
but `rest.ckpt`, as restrictedly as any other file.
"""  # noqa: E501

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from core.errors import UserError, shown
from models.formats.run_checkpoints import SHARDS
from models.formats.tensor_files import read_torch

REST = "rest.ckpt"


class _Reader(dcp.HuggingFaceStorageReader):
    """torch's reader of safetensors, which looks at the heads of the files only once."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._read: Metadata | None = None

    def read_metadata(self, *args: Any, **options: Any) -> Metadata:
        if self._read is None:
            self._read = super().read_metadata()
        return self._read


class Shards:
    """The tensors in the shards of a checkpoint, whichever number of processes has written them."""

    def __init__(self, path: Path) -> None:
        """Read the heads of the files at `path`. Raises `UserError` if they make no sense."""
        self.path, self._reader = path, _Reader(path)
        self.outlines: dict[str, Tensor] = {}
        """Each tensor without its values, by name."""
        held = 0
        try:
            for name, whole in self._reader.read_metadata().state_dict_metadata.items():
                if not isinstance(whole, TensorStorageMetadata):
                    raise TypeError(f"{name} is no tensor")
                parts = sum(chunk.sizes.numel() for chunk in whole.chunks)
                if parts != whole.size.numel():
                    raise ValueError(f"{name} is not there whole")
                dtype = whole.properties.dtype
                held += parts * dtype.itemsize
                self.outlines[name] = torch.empty(whole.size, dtype=dtype, device="meta")
            if held > sum(file.stat().st_size for file in path.glob("*.safetensors")):
                raise ValueError("more tensors than its files can hold")
        except Exception as error:  # a parser of arbitrary bytes may fail in any way
            raise self._unreadable(error) from None

    def load(self, into: Mapping[str, Tensor]) -> None:
        """Fill tensors by their names; of one that is shared out, this process's part.

        Raises `UserError` if one is not there or has another shape.
        """
        try:
            with warnings.catch_warnings(action="ignore"):  # that processes do not plan together
                dcp.load({**into}, storage_reader=self._reader, no_dist=True)
        except (Exception, dcp.CheckpointException) as error:
            raise self._unreadable(error) from None

    def whole(self, tree: Any, at: str) -> Any:
        """What stands `at` a place of the checkpoint, with the values of its tensors."""
        tensors: dict[str, Tensor] = {}

        def empty(name: str, value: Any) -> Any:
            if not isinstance(value, Tensor) or not value.is_meta:
                return value
            return tensors.setdefault(name, torch.zeros(value.shape, dtype=value.dtype))

        filled = changed(tree, empty, at)
        self.load(tensors)
        return filled

    def _unreadable(self, error: BaseException) -> UserError:
        error = behind(error)
        reason = shown((str(error) or type(error).__name__).splitlines()[0], 400)
        return UserError(f"{self.path} is damaged or no sharded checkpoint ({reason})")


def behind(error: BaseException) -> BaseException:
    """What torch's report of processes that failed was caused by in the first of them."""
    if isinstance(error, dcp.CheckpointException):
        return next((cause for cause, _ in error.failures.values()), error)
    return error


def changed(tree: Any, change: Callable[[str, Any], Any], at: str = "") -> Any:
    """A copy of nested dicts and lists; each other value is what `change` makes of its place and
    itself. A place is `at` and the keys that lead there, with slashes between."""
    within = f"{at}/" if at else ""
    if isinstance(tree, dict):
        return {key: changed(value, change, f"{within}{key}") for key, value in tree.items()}
    if isinstance(tree, list):
        return [changed(value, change, f"{within}{index}") for index, value in enumerate(tree)]
    return change(at, tree)


def outline(path: Path, rest: Any) -> dict[str, Any]:
    """A checkpoint with the shapes and types of its shared tensors, on the device `meta`.

    Raises `UserError` if a tensor of the shards has no place in the `rest`.
    """
    if not isinstance(rest, dict):
        raise UserError(f"{path} is not a Crossover checkpoint")
    left = Shards(path).outlines

    def tensor(name: str, value: Any) -> Any:
        return left.pop(name) if value is None and name in left else value

    content = changed(rest, tensor)
    if left:
        raise UserError(f"{path} is damaged: {shown(min(left), 80)} has no place in {REST}")
    return {**content, SHARDS: str(path)}


def read(path: Path, *parts: str) -> dict[str, Any]:
    """The `outline` of a checkpoint, with values in these parts. Raises as `outline`."""
    content = outline(path, read_torch(path / REST))
    if not parts:
        return content
    shards = Shards(path)
    return content | {part: shards.whole(content.get(part), part) for part in parts}
