"""The state of every random generator of a process, as tensors and plain values.

Lightning collects and sets it as Python and NumPy give it; a checkpoint holds no such objects.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities.seed import _collect_rng_states, _set_rng_states


def random_state() -> dict[str, Any]:
    """Random state of Python, NumPy, torch and, where there is one, this process's GPU."""
    states = _collect_rng_states(include_cuda=False)
    version, internal, gauss = states["python"]
    kind, keys, position, has_gauss, cached = states["numpy"]
    state = {
        "python": [version, list(internal), gauss],
        "numpy": [kind, torch.from_numpy(np.array(keys)), position, has_gauss, cached],
        "torch": states["torch"],
    }
    if torch.cuda.is_available():  # of this process's GPU: the others belong to other ranks
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(states: list[dict[str, Any]], rank: int) -> None:
    """Continue the generators of process `rank`; processes that did not exist keep their seed."""
    if rank >= len(states):
        return
    state = states[rank]
    kind, keys, *rest = state["numpy"]
    _set_rng_states({**state, "numpy": (kind, keys.numpy(), *rest)})
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
