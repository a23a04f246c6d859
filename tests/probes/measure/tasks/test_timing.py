"""The bytes of a state."""

from __future__ import annotations

import torch

from probes.measure.tasks import timing


def test_state_bytes_counts_what_is_kept_alive() -> None:
    whole = torch.zeros(10, 4)
    state = {"a": {"b": whole[-1]}, "c": whole[0], "d": torch.zeros(3, dtype=torch.float16)}
    assert timing.state_bytes(state) == 10 * 4 * 4 + 3 * 2
