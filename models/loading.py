"""From a file to a model ready to use. Nothing but tensors and plain values is ever unpickled."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from models.contract import Contestant
from models.errors import UserError
from models.files import damage
from models.registry import ModelSpec, build


def load(path: str | Path, device: str | torch.device = "cpu") -> Contestant:
    """The model of a Crossover checkpoint, in eval mode.

    Raises `UserError` if the file is missing, damaged or not a checkpoint.
    """
    path = Path(path)
    if problem := damage(path):
        raise UserError(f"checkpoint {path}: {problem}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        spec = ModelSpec(**content["crossover"]["identity"]["model"])
        weights = content["state_dict"]
    except (pickle.UnpicklingError, KeyError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is not a Crossover checkpoint ({reason})") from None
    model: Any = build(spec)
    model.load_state_dict({name.removeprefix("model."): value for name, value in weights.items()})
    return model.to(device).eval()
