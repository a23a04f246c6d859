"""Tensors from files and back, and nothing but tensors: no code in a file is ever run."""

from __future__ import annotations

import os
import re
import stat
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from core.errors import UserError, shown
from models.formats.pickles import Unbounded, check_bounded, code_in, is_archive
from models.formats.weights import listed

_MODEL_PARTS = ("state_dict", "model_state_dict", "model", "module")
"""Where Lightning, torch's tutorials, nanoGPT and DeepSpeed put the model in a checkpoint."""
_WRAPPERS = re.compile(
    r"(?:^|(?<=\.))(?:_forward_module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)


def read_torch(path: Path) -> Any:
    """What `torch.save` wrote, tensors mapped from the file. Runs no code.

    Raises `UserError` if the file is missing, damaged, of another kind, or contains code.
    """
    _must_exist(path)
    try:
        zipped = is_archive(path)  # the older format cannot be mapped
        if zipped:
            # Compressed, or with overlapping entries, a small file could fill the memory.
            with zipfile.ZipFile(path) as archive:
                unpacked = sum(entry.file_size for entry in archive.infolist())
            if unpacked > path.stat().st_size:
                raise UserError(
                    f"{path} unpacks to more than it holds, as no file of torch.save does"
                )
        with warnings.catch_warnings(action="ignore"):  # of pickle protocols
            check_bounded(path)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except UserError:
        raise
    except Unbounded as error:
        raise UserError(f"{path} holds {error}, as no file of weights does: refused") from None
    except Exception as error:  # a parser of arbitrary bytes may fail in any way
        with warnings.catch_warnings(action="ignore"):
            code = sorted(set(code_in(path)))
        if code:
            raise UserError(
                f"{path} contains code ({shown(', '.join(code), 400)}) and not only tensors: "
                "refused, nothing was executed. Ask its maker for safetensors"
            ) from None
        if not isinstance(error, OSError | RuntimeError | MemoryError | zipfile.BadZipFile):
            # The unpickler's own: advice to programmers, or where in its machinery it failed.
            error = ValueError("not what torch.save writes")
        raise _unreadable(path, error) from None


def read_pth(path: Path) -> dict[str, Tensor]:
    """The named tensors of a file: a flat dict, or the model's part of a training checkpoint.

    Raises as `read_torch`, and for anything else inside.
    """
    return named_tensors(path, read_torch(path))


def named_tensors(path: Path, content: Any) -> dict[str, Tensor]:
    """The model's tensors in what `torch.load` returned for `path`, without wrappers.

    Raises `UserError` if they are not exactly one dict of named tensors.
    """
    while isinstance(content, dict):
        parts = [key for key in _MODEL_PARTS if isinstance(content.get(key), dict)]
        if not parts:
            break
        if len(parts) > 1:
            raise UserError(f"{path} holds several models ({', '.join(parts)}): save the one meant")
        content = content[parts[0]]
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected one dict of named tensors and nothing else")
    if "_strategy" in content:
        raise UserError(
            f"{path} was converted for the package rwkv (strategy {shown(content['_strategy'])}), "
            "which turns and rescales matrices: give the file it was made from"
        )
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            keys = listed([shown(key, 40) for key in content])
            raise UserError(
                f"{path}: expected one dict of named tensors and nothing else, and "
                f"{shown(name, 40)} is a {type(value).__name__} (its keys are {keys})"
            )
    return unwrapped(path, content)


def unwrapped(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the names that they have without torch's and DeepSpeed's wrappers.

    Raises `UserError` if two would have the same name.
    """
    names = {name: _WRAPPERS.sub("", name) for name in tensors}
    while names and all(name.startswith("module.") for name in names.values()):
        names = {name: short.removeprefix("module.") for name, short in names.items()}
    renamed = {names[name]: tensor for name, tensor in tensors.items()}
    if len(renamed) < len(tensors):
        raise UserError(f"{path} holds several models: some names differ only in their wrappers")
    return renamed


def write_pth(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """A flat dict of tensors, as every official tool reads it."""
    with path.open("wb") as file:  # given a name, torch would write it into the file
        torch.save(_separate(tensors), file)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a `.safetensors` file. Raises `UserError` if it is not sound."""
    _must_exist(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except Exception as error:  # a parser of arbitrary bytes may fail in any way
        raise _unreadable(path, error) from None


def write_safetensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Tensors and metadata, with the mode of any new file. More than one entry of metadata comes in
    an order of chance."""
    with path.open("wb") as file:  # the library gives its own files to the user alone
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    with telling_the_system_error():
        save_file(_separate(tensors), path, {**metadata})
    with suppress(PermissionError):  # some systems know no modes
        path.chmod(mode)


@contextmanager
def telling_the_system_error() -> Iterator[None]:
    """Raise the system's own `OSError`, as of a full disk, where safetensors hides it in a text."""
    try:
        yield
    except SafetensorError as error:
        if not (number := re.search(r"os error (\d+)", str(error))):
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from None


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each on the CPU, contiguous, in a storage of its own: a view would drag along the whole."""
    separate: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage()
        partial = storage.nbytes() != tensor.numel() * tensor.element_size()
        separate[name] = tensor.clone() if partial or storage.data_ptr() in storages else tensor
        storages.add(separate[name].untyped_storage().data_ptr())
    return separate


def _must_exist(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"{path}: no such file")


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = shown((str(error) or type(error).__name__).splitlines()[0], 400)
    return UserError(f"{path} is damaged or not a file of weights ({reason})")
