"""From weights to a file or directory that others read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from models.errors import UserError
from models.files import replacing
from models.formats import crossover, hugging_face, official
from models.weights import Weights

WRITERS: dict[str, Callable[[Weights, Path], None]] = {
    "official": official.write,
    "hf": hugging_face.write,
    "safetensors": crossover.write,
}
SUFFIXES = {"official": ".pth", "safetensors": ".safetensors"}  # by which `read` knows them


def save(weights: Weights, target: Path, format: str, overwrite: bool = False) -> None:
    """Write `weights` to `target`: a file, or for `hf` a directory. All of it or nothing.

    Raises `UserError` if the target exists and may not be replaced, if its name does not tell its
    format, and if the format cannot hold this model.
    """
    suffix = SUFFIXES.get(format, "")
    if suffix and target.suffix != suffix:
        raise UserError(f"target={target}: a name that ends in {suffix} is needed")
    if target.exists() and not overwrite:
        raise UserError(f"{target} exists: choose another target, or overwrite=true")
    try:
        with replacing(target) as aside:
            if format == "hf":
                aside.mkdir()
            WRITERS[format](weights, aside)
    except OSError as error:
        raise UserError(f"{target} cannot be written ({error})") from None
