"""What the last bits of a training depend on besides its configuration."""

from __future__ import annotations

import logging
from typing import Any

import torch

from core.errors import shown
from core.processor import cpu_name

log = logging.getLogger("crossover")

WORDS = {
    "threads": "number of threads",
    "torch": "PyTorch",
    "device": "device",
    "cpu": "processor",
    "processes": "number of processes",
    "compile": "compiler's back end",
}
OLDER = {"compile": "none"}
"""What held where a checkpoint does not say: it was written before there was a choice."""


def machine(device: torch.device, processes: int, compiler: str) -> dict[str, Any]:
    """Identify what rounding depends on: equal values give equal bits, others may not."""
    on_gpu = device.type == "cuda"
    return {
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "device": torch.cuda.get_device_name(device) if on_gpu else device.type,
        "cpu": cpu_name(),
        "processes": processes,
        "compile": compiler,
    }


def warn_of_other_bits(
    before: dict[str, Any] | None, device: torch.device, processes: int, compiler: str
) -> None:
    """Say in one line what differs from the machine that wrote a checkpoint, if that is known."""
    if before is None:
        return
    before, now = OLDER | before, machine(device, processes, compiler)
    different = [
        f"{word} {shown(before.get(key))}, now {now[key]}"
        for key, word in WORDS.items()
        if before.get(key) != now[key]
    ]
    if different:
        log.warning(
            "the checkpoint was written with %s: the last bits of what follows may differ from "
            "those of a run that was not interrupted",
            "; ".join(different),
        )
