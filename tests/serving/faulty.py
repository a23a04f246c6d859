"""A model whose worker fails when it is told to, by a file."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import torch

from serving.requests import Loaded
from tests.serving.opened import opened

FAULTS = {"killed": "dead", "stalled": "deadline", "memory": "out_of_memory"}
"""What may befall a worker, and how a route calls it."""


def order(folder: Path, fault: str, after: int = 0) -> None:
    """Have the worker fail when it next reads a prompt that is new, or `after` tokens later."""
    (folder / "next").write_text(f"{fault} {after}")
    (folder / "next").rename(folder / "fault")


def faulty(folder: Path) -> Loaded:
    """A model that reads bytes, until there is a file `fault`."""
    loaded = opened("rwkv4", folder)
    model, read = loaded.model, loaded.model.next_logits
    left: tuple[int, str] = (0, "")

    def look(reading: bool) -> None:
        nonlocal left
        file = folder / "fault"
        if file.exists():
            fault, after = file.read_text().split()
            file.unlink()
            left = int(after), fault
        if left[1] and (not left[0] or not reading):
            left = max(left[0] - 1, 0), left[1]
            if not left[0]:
                fault, left = left[1], (0, "")
                fail(fault)

    def reading(*arguments: Any) -> Any:
        look(True)
        return read(*arguments)

    model.next_logits = reading
    model.register_forward_pre_hook(lambda *_: look(False))
    return loaded


def fail(fault: str) -> None:
    """What befalls a worker, here and now."""
    if fault == "memory":
        torch.empty(1 << 60, dtype=torch.int8)
    os.kill(os.getpid(), signal.SIGKILL if fault == "killed" else signal.SIGSTOP)
