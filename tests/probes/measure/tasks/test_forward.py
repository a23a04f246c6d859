"""Training and reading a prompt: memory and precision."""

from __future__ import annotations

from typing import Any

import pytest

from probes.rows import OK
from tests.probes.measure.child_tasks import run
from tests.probes.specs import transformer


def test_time_to_first_token_leaves_the_other_logits_out() -> None:
    """At 4096 tokens and 8192 entries all logits are 128 MiB."""
    changes: dict[str, Any] = {"batch": 1, "length": 4096, "vocab_size": 8192}
    changes["spec"] = transformer(vocab_size=8192, n_layer=1)
    logits = 4096 * 8192 * 4
    first, every = (run(probe=probe, **changes).facts for probe in ("ttft", "prefill"))
    # Not all of them: the peak of the first is inside of a block, whose tensors are gone by then.
    assert every["peak_bytes"] - first["peak_bytes"] > 0.85 * logits
    assert every["flops"] - first["flops"] == 2 * 64 * 8192 * 4095
    assert first["state_bytes"] - every["state_bytes"] == 2 * 64 * 4  # room for the new token


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_training_in_lower_precision(precision: str) -> None:
    outcome = run(probe="train", precision=precision)
    assert (outcome.status, outcome.error) == (OK, None)
