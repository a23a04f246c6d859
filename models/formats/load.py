"""From a path to a model ready to use.

| what | how it is known |
|---|---|
| run | its folder: the newest undamaged checkpoint in it |
| checkpoint of a run | `.ckpt`, a file or a folder (`sharded`), with its manifest beside it |
| official RWKV weights (4, 5.0, 5.1, 5.2, 6, 7) | any other file of `torch.save`, usually `.pth` |
| checkpoint of nanoGPT | such a file with `model_args`, usually `ckpt.pt` |
| one self-describing file, or official names | `.safetensors` |
| adapters alone, merged into the weights that they name | `.safetensors` |
| Hugging Face directory | a folder with `config.json`; the layouts are `families.FAMILIES` |

Official weights may lie inside a training checkpoint of another program (`state_dict`, `model`,
`module`), under the names that torch's and DeepSpeed's wrappers give them.
Only tensors and plain values are ever read; code in a file is refused.
"""

from __future__ import annotations

from pathlib import Path

import torch

from core.errors import UserError
from models.contract import Model
from models.formats import crossover, hugging_face, nanogpt, official, run_checkpoints, tuned
from models.formats.crossover import RAW
from models.formats.tensor_files import named_tensors, read_torch
from models.formats.weights import Weights
from models.registry import ModelSpec


def load(
    path: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    part: str = RAW,
) -> Model:
    """The model at `path`, in eval mode; `dtype` is by default the file's, `part` as for `read`.

    Raises `UserError` if there is none, it is damaged, or of a kind that is not supported.
    """
    return read(path, part).model(device, dtype)


def spec_of(path: Path) -> ModelSpec:
    """The model at `path`, which a file of ours says without its tensors being read. Other formats
    are read whole, because their tensors say it. Raises as `load`."""
    file = path
    if (path / run_checkpoints.FOLDER).is_dir() and (saved := run_checkpoints.saved(path)):
        file = saved[-1]
    spec = crossover.spec_of(file) if file.suffix in (".ckpt", ".safetensors") else None
    return spec or read(path).spec


def read(path: str | Path, part: str = RAW) -> Weights:
    """What is in the file or directory at `path`, as it is there. Raises as `load`.

    Of a run's checkpoint `part` may be `ema`, the averages that it holds beside its weights.
    """
    path = Path(path)
    if (path / run_checkpoints.FOLDER).is_dir():
        if (checkpoint := run_checkpoints.newest(path)) is None:
            raise UserError(f"{path} has no checkpoint yet: train it first")
        path = checkpoint
    if path.suffix == ".ckpt" and (not path.is_dir() or run_checkpoints.is_sharded(path)):
        return crossover.read_checkpoint(path, part)
    if part != RAW:
        raise UserError(f"weights={part}: {path} is no run, and has no averages of its weights")
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(
                f"{path}: a folder without checkpoints/ is no run, and without config.json no "
                "Hugging Face model"
            )
        return hugging_face.read(path)
    if path.suffix == ".safetensors":
        if (adapters := crossover.read_adapters(path)) is not None:
            return tuned.merge_file(path, *adapters, read)
        return crossover.read(path)
    content = read_torch(path)
    if nanogpt.is_one(content):
        return nanogpt.read(path, content)
    return official.from_tensors(path, named_tensors(path, content))
