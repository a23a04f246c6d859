"""From weights to a file or directory that others read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError

from core.errors import UserError, shown
from core.files import replacing
from core.writable import foresee, reason
from models.formats import crossover, gguf_file, hugging_face, official, tuned
from models.formats.weights import Weights


@dataclass(frozen=True)
class Beside:
    """What is written of the tokenizer, in formats that have a place for it."""

    files: Mapping[str, str | bytes] = field(default_factory=dict)
    """The content of files in a directory, by name."""
    end_of_text: int | None = None
    """The id of the token that ends a text."""
    vocabulary: gguf_file.Vocabulary | None = None
    """The tokenizer for a GGUF file."""


def _write_directory(weights: Weights, folder: Path, beside: Beside) -> None:
    folder.mkdir()
    for name, content in beside.files.items():
        content = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(content)
    hugging_face.write(weights, folder, beside.end_of_text)


WRITERS: dict[str, Callable[[Weights, Path, Beside], None]] = {
    "official": lambda weights, path, _: official.write(weights, path),
    "hf": _write_directory,
    "safetensors": lambda weights, path, _: crossover.write(weights, path),
    "gguf": lambda weights, path, beside: gguf_file.write(weights, path, beside.vocabulary),
    "adapter": lambda weights, path, _: crossover.write_adapters(weights, path),
    "state": lambda weights, path, _: tuned.write_state(weights, path),
}
TOKENIZED = ("hf", "gguf")
"""Formats that hold the tokenizer too."""
PARTS = ("adapter", "state")
"""Formats of what a fine-tuning has learned, alone."""
STATELESS = ("hf", "gguf")
"""Formats that have no place for a learned state."""
OWN = ("rate_limit", "windows", "emb_norm")
"""Fields of a config that no other tool's layout has."""
SUFFIXES = {
    "official": ".pth", "safetensors": ".safetensors", "gguf": ".gguf",
    "adapter": ".safetensors", "state": ".pth",
}  # fmt: skip
"""By which readers know them."""


def check_target(target: Path, format: str, overwrite: bool) -> None:
    """Raise `UserError` if `target` may not be replaced, or its name does not tell its format."""
    suffix = SUFFIXES.get(format, "")
    if suffix and target.suffix != suffix:
        raise UserError(f"target={target}: format={format} needs a name that ends in {suffix}")
    try:
        exists = target.exists()
        foresee(target.parent)
    except OSError as error:  # a name too long, a folder that may not be looked into
        raise UserError(
            f"target={target} cannot be written ({reason(error)}): choose another place"
        ) from None
    if exists and not overwrite:
        raise UserError(f"target={target} exists: choose another, or overwrite=true")
    if exists and target.is_dir() != (format == "hf"):
        kind = "directory" if target.is_dir() else "file"
        raise UserError(f"target={target} is a {kind}: format={format} would not be one")
    if exists and target.is_dir() and (other := _no_model(target)):
        raise UserError(
            f"target={target} would be replaced as a whole, and it is no Hugging Face model "
            f"({other}): choose another place, or empty it yourself"
        )


def _no_model(folder: Path) -> str:
    """Why a folder with something in it is not one that was written as a Hugging Face model."""
    entries = sorted(folder.iterdir())
    if inside := [path.name for path in entries if path.is_dir()]:
        return f"it holds the folder {shown(inside[0], 80)}"
    return "it has no config.json" if entries and folder / "config.json" not in entries else ""


def save(
    weights: Weights,
    target: Path,
    format: str,
    overwrite: bool = False,
    beside: Beside | None = None,
) -> None:
    """Write `weights` to `target`: a file, or for `hf` a directory. All of it or nothing.

    Formats of `TOKENIZED` take what is `beside` the weights. Raises `UserError` as `check_target`,
    and if the format cannot hold this model or the target cannot be written.
    """
    check_target(target, format, overwrite)
    if weights.initial and format in STATELESS:
        raise UserError(
            f"format={format} would lose the state that tune=state has trained: format=state "
            "writes it for RWKV's tools, beside the weights that the run began with; "
            "format=safetensors keeps both"
        )
    own = [name for name in OWN if weights.spec.config.get(name) not in (None, False, 1)]
    if own and format in ("official", *STATELESS):
        raise UserError(
            f"format={format}: no layout there has model.{own[0]}={weights.spec.config[own[0]]}: "
            "use format=safetensors"
        )
    try:
        with replacing(target) as aside:
            WRITERS[format](weights, aside, beside or Beside())
    except UserError:
        raise
    except (OSError, RuntimeError, SafetensorError) as error:  # what each library makes of ENOSPC
        raise UserError(
            f"target={target} cannot be written ({type(error).__name__}: {reason(error)}): nothing "
            "was left there; choose a place that can be written and has room"
        ) from None
