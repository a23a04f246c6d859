"""States in files: a text that was read once, to be continued any number of times.

A file holds the leaves of the state and the logits of the next token, as safetensors, and says
which weights they belong to. Nothing in it is executed.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from core.errors import UserError
from core.files import replacing
from core.parsing import parse_json
from models.contract import State, named_tensors
from models.formats.tensor_files import telling_the_system_error

KIND = "crossover-state-1"
_SAMPLE = 1 << 14  # elements of a tensor that its digest takes from either end


def digest_of(model: nn.Module) -> str:
    """16 hex digits over the weights: names, shapes, types, and both ends of each tensor."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        flat = tensor.detach().reshape(-1)
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        for part in (flat[:_SAMPLE], flat[-_SAMPLE:]):
            digest.update(part.contiguous().cpu().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def write_state(
    path: Path, state: State, empty: State, logits: Tensor, tokens: int, digest: str
) -> int:
    """Write a state of one sequence, after `tokens` tokens, with its logits `[V]`.

    `empty` is the model's state before the first token. Of caches that grow, only what is filled is
    written. Returns the file's size in bytes. Written aside and renamed.
    """
    before = dict(named_tensors(empty))
    leaves = {
        f"state.{name}": _used(leaf.detach(), before[name], tokens).cpu().clone()
        for name, leaf in named_tensors(state)
    }
    leaves["logits"] = logits.detach().float().clone()
    about = {"kind": KIND, "model": digest, "tokens": str(tokens)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as aside, telling_the_system_error():
        save_file(leaves, aside, metadata={"crossover": json.dumps(about)})
    return path.stat().st_size


def read_state(path: Path, model: Any, digest: str) -> tuple[State, Tensor, int]:
    """The state in a file, its logits `[V]` and the number of tokens read.

    It is what `model` can have after so many tokens, on its devices: kernels believe it. Raises
    `UserError` if the file is none, is damaged, or belongs to other weights.
    """
    if not path.is_file():
        raise UserError(f"no state is saved as {path.stem!r}")
    try:
        with safe_open(path, framework="pt") as file:
            about: Any = parse_json((file.metadata() or {}).get("crossover", "{}"))
            if about.get("kind") != KIND:
                raise UserError(f"{path}: not a file of a state")
            if about.get("model") != digest:
                raise UserError(f"the state {path.stem!r} belongs to other weights")
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            tokens = about["tokens"]
    except (
        SafetensorError, OSError, RuntimeError, ValueError, AttributeError, KeyError, TypeError
    ) as error:  # fmt: skip
        raise UserError(f"{path}: not a file of a state ({' '.join(str(error).split())})") from None
    logits, is_count = found.pop("logits", None), re.fullmatch("[1-9][0-9]{0,17}", str(tokens))
    empty = model.init_state(1)
    state = _filled(empty, found, "state.")
    if state is None or found or not is_count or not _fits(state, empty, model, int(tokens)):
        raise UserError(f"{path}: not a state of this model")
    is_whole = logits is not None and logits.shape == (model.config.vocab_size,)
    if not is_whole or logits.dtype != torch.float32 or not logits.isfinite().all():
        raise UserError(f"{path}: not a state of this model")
    return state, logits, int(tokens)


def _used(leaf: Tensor, empty: Tensor, tokens: int) -> Tensor:
    """The part of a leaf that holds something: a dimension that is empty at first has the tokens'
    size at most."""
    for dimension, size in enumerate(empty.shape):
        if not size:
            leaf = leaf.narrow(dimension, 0, min(leaf.shape[dimension], tokens))
    return leaf


def _filled(empty: State, found: dict[str, Tensor], prefix: str) -> State | None:
    """The tree of `empty` with the leaves that were found; takes them out of `found`.

    A cache that grows may be longer than an empty one, and nothing else may differ.
    """
    state: State = {}
    for name, value in empty.items():
        leaf: Any
        if isinstance(value, Tensor):
            leaf = found.pop(f"{prefix}{name}", None)
            if leaf is None or leaf.dtype != value.dtype or leaf.ndim != value.ndim:
                return None
            different = [a != b for a, b in zip(leaf.shape, value.shape, strict=True) if b]
            if any(different):
                return None
            leaf = leaf.to(value.device)
        else:
            leaf = _filled(value, found, f"{prefix}{name}.")
            if leaf is None:
                return None
        state[name] = leaf
    return state


def _fits(state: State, empty: State, model: Any, tokens: int) -> bool:
    """Whether caches are as long, and counters as far, as so many tokens leave them."""
    before = dict(named_tensors(empty))
    grown = [
        size
        for name, leaf in named_tensors(state)
        for size, at_first in zip(leaf.shape, before[name].shape, strict=True)
        if not at_first
    ]
    # One more than the longest shows whether it is a window, past which a cache does not grow. What
    # is allocated is as large as the file.
    after = model.init_state(1, capacity=min(tokens, max(grown, default=0) + 1))
    expected = dict(named_tensors(after))
    return all(
        leaf.shape == expected[name].shape
        and bool((leaf.isfinite() if leaf.is_floating_point() else leaf == tokens).all())
        for name, leaf in named_tensors(state)
    )
