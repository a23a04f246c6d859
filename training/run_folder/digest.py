"""One number for everything that a training depends on: equal digests, equal futures."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

# Of a checkpoint. The rest is Lightning's bookkeeping and what callbacks measured, such as seconds.
PARTS = ("state_dict", "optimizer_states", "lr_schedulers", "global_step")


def digest(content: dict[str, Any]) -> str:
    """SHA-256, in hexadecimal, over what a checkpoint would continue with.

    That is weights, optimizer, schedule, the random generators of every process, the step, and the
    corpus and model; batches are a function of corpus, seed and step.
    """
    total = hashlib.sha256()
    _add(total, {part: content[part] for part in PARTS})
    if "ema" in content:
        _add(total, content["ema"])
    _add(total, {part: content["crossover"][part] for part in ("identity", "random")})
    return total.hexdigest()


def _add(total: Any, value: Any) -> None:
    """Feed a tree of tensors and plain values, so that different trees give different bytes."""
    total.update(f"{type(value).__name__} ".encode())
    if isinstance(value, Tensor):
        total.update(f"{value.dtype} {[*value.shape]} ".encode())
        total.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, dict):
        total.update(f"{len(value)} ".encode())
        for key in sorted(value, key=lambda key: (type(key).__name__, key)):
            _add(total, key)
            _add(total, value[key])
    elif isinstance(value, (list, tuple)):
        total.update(f"{len(value)} ".encode())
        for item in value:
            _add(total, item)
    else:
        text = repr(value).encode()
        total.update(f"{len(text)} ".encode() + text)
