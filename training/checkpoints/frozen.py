"""The weights that a fine-tuning leaves as they are: one file in the run's folder.

Every checkpoint of such a run holds what is trained, and the SHA-256 of this file. So a checkpoint
is as small as the adapters are, and the run goes on where what it began with is gone: checkpoints
of a run are deleted as it goes on, and files are moved.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from torch import nn

from conf.schema import TrainConf, TuneConf
from core.errors import UserError
from core.files import atomic, recorded_digest, sync
from models.formats.crossover import content_of, read, write
from models.formats.run_checkpoints import FROZEN
from models.formats.tuned import PART, frozen_of
from models.formats.weights import Weights
from models.registry import ModelSpec
from models.tuning import FULL, Tuning, tune
from training.run_folder.folder import RunFolder


def tuning_of(conf: TuneConf) -> Tuning | None:
    """What is trained where that is not everything."""
    return None if conf.mode == FULL else Tuning.of(conf.mode, conf.rank, conf.alpha, conf.targets)


def recorded_tuning(content: dict[str, Any]) -> Tuning | None:
    """That of a checkpoint's run. Raises `UserError` if what it says makes no sense."""
    part = content["crossover"].get(PART)
    if part is None:
        return None
    try:
        return Tuning.parse(part["tuning"])
    except (KeyError, TypeError, ValueError):
        raise UserError("a checkpoint whose tuning makes no sense") from None


def is_tuned_alike(conf: TrainConf, checkpoint: Path) -> bool:
    """Whether `conf` trains the same parts of a model as the run with this checkpoint did."""
    theirs = None
    if (checkpoint.parent.parent / FROZEN).is_file():  # others train everything
        theirs = recorded_tuning(content_of(checkpoint))
    return theirs == tuning_of(conf.tune)


def keep(weights: Weights, spec: ModelSpec, folder: RunFolder) -> None:
    """Write the weights that stay into the run's folder, with a manifest, all or nothing."""
    with atomic(folder.frozen, manifest=True) as file:
        aside = Path(file.name)
        write(Weights(spec, weights.tensors), aside)
        sync(aside)


def bring(checkpoint: Path, content: dict[str, Any], folder: RunFolder) -> None:
    """See that the run's folder has the weights that this checkpoint belongs to: those of the run
    that it is of are copied. Raises `UserError` if they cannot be used."""
    part = content["crossover"].get(PART)
    if part is None:
        return
    digest = str(part["frozen"])
    source = frozen_of(checkpoint, digest)
    if recorded_digest(folder.frozen) != digest or not folder.frozen.is_file():
        with source.open("rb") as whole, atomic(folder.frozen, manifest=True) as file:
            shutil.copyfileobj(whole, file)


def prepare(folder: RunFolder, model: nn.Module, tuning: Tuning, seed: int) -> None:
    """Give the model the weights in the run's folder, and the parts that are trained."""
    read(folder.frozen).put(model)
    tune(model, tuning, seed)


def reference(folder: RunFolder, tuning: Tuning) -> dict[str, Any]:
    """What every checkpoint says of them."""
    return {"tuning": tuning.as_dict(), "frozen": recorded_digest(folder.frozen)}
