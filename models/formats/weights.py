"""A model at rest: what to build, and the tensors to put into it.

Reading a file gives `Weights`, writing one takes them; a conversion never builds the model. So what
is converted keeps its bits, its precision and even the tensors that our model has no use for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.errors import UserError, shown
from models.contract import Model
from models.meta import build_meta
from models.registry import ModelSpec
from models.tuning import STATE, Tuning

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SHOWN = 5  # problems of a file named in one message
LONGEST = 300  # characters of each


@dataclass(frozen=True)
class Tuned:
    """What a fine-tuning has learned beside weights that it left as they were."""

    tuning: Tuning
    tensors: Mapping[str, Tensor]
    """Adapters or a state, under the names they have in the tuned model."""
    frozen: str
    """SHA-256 of the run's file of the weights that stayed."""
    parent: dict[str, Any] | None = None
    """What the run began with: `path`, `step`, `sha256` and `take`."""
    run: str | None = None
    """The run's folder."""


@dataclass(frozen=True)
class Weights:
    """Tensors under the names of the model that `spec` builds."""

    spec: ModelSpec
    tensors: Mapping[str, Tensor]
    unused: Mapping[str, Tensor] = field(default_factory=dict)
    """Tensors of an official file that no computation reads; written back with the others."""
    tuned: Tuned | None = None
    """What was learned apart. Adapters are in `tensors` too, merged; a state is not."""

    @property
    def initial(self) -> Mapping[str, Tensor]:
        """The learned state before the first token; empty where there is none."""
        is_state = self.tuned is not None and self.tuned.tuning.mode == STATE
        return self.tuned.tensors if self.tuned is not None and is_state else {}

    def put(self, model: Any) -> None:
        """Give these to a model of `spec`, in its own precision."""
        if self.initial:
            model.learn_state()
        model.load_state_dict({**self.tensors, **self.initial})

    def model(self, device: str | torch.device, dtype: torch.dtype | None = None) -> Model:
        """The model, in eval mode. Default `dtype`: the narrowest that holds every tensor."""
        if dtype is None:
            dtype = common_dtype(self.tensors)
        model = build_meta(self.spec)  # no time for an initialisation that is overwritten
        copies = {
            name: tensor.to(device, dtype, copy=True, memory_format=torch.contiguous_format)
            for name, tensor in self.tensors.items()
        }
        if self.initial:
            model.learn_state()
            copies |= {name: each.to(device, copy=True) for name, each in self.initial.items()}
        model.load_state_dict(copies, assign=True)
        return model.eval()

    def to(self, dtype: torch.dtype) -> Weights:
        """These weights in another precision.

        Raises `UserError` naming the first tensor with a value that `dtype` cannot hold.
        """

        def cast(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            changed = {name: tensor.to(dtype) for name, tensor in tensors.items()}
            for name, tensor in changed.items():
                if not _finite(tensor):
                    largest = float(tensors[name].float().abs().max())
                    raise UserError(
                        f"{name} holds {largest:.6g}, and {str(dtype).removeprefix('torch.')} ends "
                        f"at {torch.finfo(dtype).max:.6g}: choose bfloat16 or float32"
                    )
            return changed

        tuned = self.tuned and replace(self.tuned, tensors=cast(self.tuned.tensors))
        return replace(self, tensors=cast(self.tensors), unused=cast(self.unused), tuned=tuned)


def common_dtype(tensors: Mapping[str, Tensor]) -> torch.dtype:
    """The narrowest dtype that holds every one of `tensors`."""
    dtypes = {tensor.dtype for tensor in tensors.values()}
    return dtypes.pop() if len(dtypes) == 1 else torch.float32


def check_sizes(path: Path, spec: ModelSpec, tensors: Mapping[str, Tensor]) -> None:
    """Raise `UserError` if `spec` describes a larger model than `tensors` could fill.

    Building it, even without memory, could take forever.
    """
    numbers = sum(tensor.numel() for tensor in tensors.values())
    for name, most in (("n_layer", len(tensors)), ("n_embd", numbers), ("vocab_size", numbers)):
        size = dict(spec.config).get(name)
        if isinstance(size, int) and size > most:
            raise UserError(f"{path}: {name}={size} is more than its {len(tensors)} tensors hold")


def shapes_of(spec: ModelSpec, path: Path | None = None) -> dict[str, torch.Size]:
    """Names and shapes of the parameters of the model that `spec` builds.

    Raises `UserError`, naming the `path` of its description, if it builds none: a description read
    from a file may be anything.
    """
    try:
        model = build_meta(spec)
    except UserError as error:
        raise UserError(f"{path}: {error}" if path else str(error)) from None
    except Exception as error:
        reason = f"{shown(spec.config, 200)} ({shown(error, 200)})"
        where = f"{path}: " if path else ""
        raise UserError(f"{where}no {spec.target} can be built from {reason}") from None
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def checked(
    path: Path, tensors: Mapping[str, Tensor], expected: Mapping[str, torch.Size]
) -> dict[str, Tensor]:
    """`tensors` in the shapes and the order of `expected`.

    A shape may differ by dimensions of size 1: vectors are `[C]` in some files and `[1, 1, C]` in
    others. Raises `UserError` naming the file and each tensor that is missing, unknown, of another
    shape or type, or that holds a value that is not finite.
    """
    problems = []
    for name, shape in expected.items():
        if name not in tensors:
            problems.append(f"{name} {list(shape)} is missing")
            continue
        tensor = tensors[name]
        # One that repeats its storage could ask for terabytes in a tiny file.
        is_whole = tensor.layout == torch.strided and (
            tensor.untyped_storage().nbytes() >= tensor.numel() * tensor.element_size()
        )
        if tensor.dtype not in DTYPES.values():
            problems.append(f"{name} is {tensor.dtype}; expected {', '.join(DTYPES)}")
        elif not is_whole:
            problems.append(f"{name} is not an ordinary dense tensor")
        elif _essential(tensor.shape) != _essential(shape):
            problems.append(f"{name} has shape {list(tensor.shape)}; expected {list(shape)}")
    problems += [f"{name} is unknown to this model" for name in tensors if name not in expected]
    problems = problems or [
        f"{name} holds values that are not finite"
        for name, tensor in tensors.items()
        if not _finite(tensor)
    ]
    if problems:
        raise UserError(f"{path}: {listed(problems)}")
    return {name: tensors[name].reshape(shape) for name, shape in expected.items()}


def listed(problems: list[str]) -> str:
    """The first few of `problems` in one line, and how many more there are."""
    more = len(problems) - SHOWN
    named = [shown(problem, LONGEST) for problem in problems[:SHOWN]]
    return "; ".join(named) + (f"; and {more} more" if more > 0 else "")


def _finite(tensor: Tensor) -> bool:
    # A sum is finite only if every term is, and takes a thirtieth of the time of looking at each;
    # one that is not may have overflowed.
    return bool(tensor.sum().isfinite() or tensor.isfinite().all())


def _essential(shape: torch.Size) -> list[int]:
    return [size for size in shape if size != 1]
