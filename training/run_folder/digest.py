"""One number for everything that a training depends on: equal digests, equal futures."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.formats.run_checkpoints import SHARDS

# Of a checkpoint. The rest is Lightning's bookkeeping and what callbacks measured, such as seconds.
PARTS = ("state_dict", "optimizer_states", "lr_schedulers", "global_step")

Read = Callable[[str, Tensor], Tensor]
"""Gives the tensor at a place of the checkpoint its values."""


def digest(content: dict[str, Any]) -> str:
    """SHA-256, in hexadecimal, over what a checkpoint would continue with.

    That is weights, optimizer, schedule, the random generators of every process, the step, and the
    corpus and model; batches are a function of corpus, seed and step.
    """
    total = hashlib.sha256()
    read = _reader(content)
    _add(total, {part: content[part] for part in PARTS}, read)
    if "ema" in content:
        _add(total, content["ema"], read)
    _add(total, {part: content["crossover"][part] for part in ("identity", "random")}, read)
    return total.hexdigest()


def _reader(content: dict[str, Any]) -> Read:
    """What gives tensors of a sharded checkpoint their values, one at a time."""
    if SHARDS not in content:
        return lambda place, tensor: tensor
    from models.formats.sharded import Shards  # imports much of torch

    shards = Shards(Path(content[SHARDS]))
    return lambda place, tensor: shards.whole(tensor, place)


def _add(total: Any, value: Any, read: Read, place: str = "") -> None:
    """Feed a tree of tensors and plain values, so that different trees give different bytes."""
    within = f"{place}/" if place else ""
    total.update(f"{type(value).__name__} ".encode())
    if isinstance(value, Tensor):
        total.update(f"{value.dtype} {[*value.shape]} ".encode())
        value = read(place, value)
        total.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, dict):
        total.update(f"{len(value)} ".encode())
        for key in sorted(value, key=lambda key: (type(key).__name__, key)):
            _add(total, key, read)
            _add(total, value[key], read, f"{within}{key}")
    elif isinstance(value, (list, tuple)):
        total.update(f"{len(value)} ".encode())
        for index, item in enumerate(value):
            _add(total, item, read, f"{within}{index}")
    else:
        text = repr(value).encode()
        total.update(f"{len(text)} ".encode() + text)
