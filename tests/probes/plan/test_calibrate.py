"""What is measured of this machine, and when it is enough."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from models.contract import most_tokens
from models.registry import build, separator
from models.step_trace import Op
from probes.measure.tasks.timing import random_rows
from probes.plan import calibrate
from probes.plan.device_rates import Measured
from tests.registered_models import spec_of


@pytest.mark.parametrize(
    ("kind", "token_seconds", "told"),
    [("lstm", 0.0, "8 to 32"), ("lstm", 0.2, "8 to 16"), ("lstm", 1e3, "8"),
     ("seq2seq", 0.0, "8 to 32")],
)  # fmt: skip
def test_a_slow_machine_is_measured_at_fewer_lengths(
    kind: str, token_seconds: float, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """30 seconds: 3 steps of 16 tokens fit at 0.2 s each (9.6 s), of 32 more do not (19.2 s)."""
    now, watched = [0.0], []

    def fastest(model: Any, tokens: torch.Tensor, *_: Any) -> Any:
        watched.append(tokens.numel())
        now[0] += calibrate.FEWEST_STEPS * token_seconds * tokens.numel()
        return [Op("matmul", 0, 1.0, 1.0, 1.0, 0.0, seconds=1.0)], 1.0, token_seconds

    monkeypatch.setattr(calibrate, "TOKENS", (8, 16, 32))
    monkeypatch.setattr(calibrate, "_fastest", fastest)
    monkeypatch.setattr(calibrate, "fit_curves", lambda ops: {})
    peaks = iter([1.0, 3.0])
    memory = SimpleNamespace(reset_peak=lambda device: None, peak=lambda device: next(peaks))
    monkeypatch.setattr(calibrate, "peak_memory", memory)
    monkeypatch.setattr(calibrate, "_peak_flops", lambda *_: 1.0)
    clock = SimpleNamespace(perf_counter=lambda: now[0], process_time=lambda: now[0])
    monkeypatch.setattr(calibrate, "time", clock)
    found = calibrate.calibrate(spec_of(kind), "32-true", 0)
    assert found.model == f"{kind}, 2 layers, 64 channels, {told} tokens"
    assert found.rates == Measured({}, 0.0, 0.0) and found.allocator_overhead == 2.0
    assert max(watched) == int(told.split()[-1])


def test_a_small_relative_of_a_model_of_source_and_target_has_both() -> None:
    """Its separator is of its vocabulary, its context has no end, and rows are half target."""
    spec = spec_of("seq2seq", size="nano", vocab=50_000, separator=49_000)
    small = calibrate.smaller(spec)
    assert small.config["vocab_size"] == calibrate.MOST_VOCABULARY
    assert separator(small.target, small.config) == calibrate.MOST_VOCABULARY - 1
    rows = random_rows(small, calibrate.MOST_VOCABULARY, (2, 8), torch.Generator().manual_seed(0))
    assert (rows == calibrate.MOST_VOCABULARY - 1).nonzero().tolist() == [[0, 4], [1, 4]]
    assert most_tokens(build(small)) is None


def test_the_peak_is_that_of_the_faster_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without products in bf16 a processor is far slower in it than in fp32."""
    seconds = {torch.float32: 1.0, torch.bfloat16: 10.0}
    monkeypatch.setattr(calibrate, "_shortest", lambda work, *_: seconds[work.args[0].dtype])
    operations = 2 * calibrate.SIDE**3
    assert calibrate._peak_flops("bf16-mixed", lambda: 0.0) == operations
    seconds[torch.bfloat16] = 0.5
    assert calibrate._peak_flops("bf16-mixed", lambda: 0.0) == 2 * operations
    assert calibrate._peak_flops("32-true", lambda: 0.0) == operations
