"""Models with weights from a file. What is measured of fresh ones is measured of them."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.files import damage, manifest_path, recorded_digest, sha256
from models.formats.run_checkpoints import is_sharded
from models.registry import ModelSpec


@dataclass(frozen=True)
class Trained(ModelSpec):
    """A model, and where its weights are."""

    source: str = ""
    """What the user called it: a run with its step, or the name of a file or folder."""
    path: str = ""
    sha256: str = ""
    stamp: tuple[tuple[str, int, int], ...] = ()
    """Name, size and time of change of each file."""

    @property
    def weights(self) -> dict[str, str]:
        """What rows say of them."""
        return {"source": self.source, "path": self.path, "sha256": self.sha256}


def trained(path: Path, source: str) -> Trained:
    """The model in a file or directory of weights. Raises `UserError` as `models.load`."""
    if path.suffix == ".ckpt" and manifest_path(path).exists() and (problem := damage(path)):
        raise UserError(f"checkpoint {path}: {problem}")
    spec = model_of(path)
    return Trained(
        **vars(spec), source=source, path=str(path), sha256=_digest(path), stamp=_stamp(path)
    )


def model_of(path: Path) -> ModelSpec:
    """The model in a run's folder, a file or a directory of weights; files of ours are not read
    whole for it, and others once. Raises `UserError` as `models.load`."""
    from models.formats.load import spec_of
    from models.formats.run_checkpoints import FOLDER

    return spec_of(path) if (path / FOLDER).is_dir() else _model_in(path, _stamp(path))


@functools.cache
def _model_in(path: Path, stamp: object) -> ModelSpec:
    """The model of a file that still has this `stamp`."""
    from models.formats.load import spec_of

    return spec_of(path)


def fill(model: Any, spec: Trained) -> None:
    """Put the weights into the model that `spec` describes.

    Raises `UserError` if the files have changed since `trained`.
    """
    from models.formats.load import read

    path = Path(spec.path)
    if _stamp(path) != spec.stamp:
        raise UserError(f"{path} has changed since the sweep began: the same command starts again")
    read(path).put(model)


def _files(path: Path) -> list[Path]:
    return sorted(one for one in path.iterdir() if one.is_file()) if path.is_dir() else [path]


def _stamp(path: Path) -> tuple[tuple[str, int, int], ...]:
    try:
        facts = [(one.name, one.stat()) for one in _files(path)]
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    return tuple((name, fact.st_size, fact.st_mtime_ns) for name, fact in facts)


def _digest(path: Path) -> str:
    """SHA-256 of a file; of a folder, that of the digests of its files."""
    if is_sharded(path) and (recorded := recorded_digest(path)):
        return recorded
    if path.is_file():
        return recorded_digest(path) or sha256(path)
    lines = "".join(f"{sha256(one)} {one.name}\n" for one in _files(path))
    return hashlib.sha256(lines.encode()).hexdigest()
