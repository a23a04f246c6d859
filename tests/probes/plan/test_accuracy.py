"""Predictions against real steps on this machine."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from models.registry import ModelSpec, build
from probes.measure import isolated
from probes.measure.counters import peak_memory
from probes.measure.isolated import Report
from probes.plan.calibrate import calibrate
from probes.plan.cost_model import CostModel
from probes.plan.plan import compute_seconds
from tests.registered_models import spec_of

VOCABULARY = 3072
POINTS = [
    ("rwkv4", "5m", 2048),
    ("rwkv7", "5m", 1024),
    ("rwkv7", "nano", 2048),
    ("transformer", "5m", 4096),
]


def real_step(report: Report, spec: ModelSpec, length: int, repeats: int) -> None:
    """Work of a child: `peak_bytes` of steps and their weights, and the shortest's `seconds`."""
    torch.set_num_threads(1)
    _step(build(spec_of(spec.name, vocab=VOCABULARY)), 16)  # what is imported on first use
    model: Any = build(spec)
    peak_memory.reset_peak("cpu")
    before = peak_memory.peak("cpu") or 0
    seconds = [_step(model, length) for _ in range(repeats)]
    weights = sum(parameter.nbytes for parameter in model.parameters())
    peak = (peak_memory.peak("cpu") or 0) - before + weights
    report({"peak_bytes": peak, "seconds": min(seconds)})


def _step(model: Any, length: int) -> float:
    model.zero_grad(set_to_none=True)
    tokens = torch.randint(VOCABULARY, (1, length))
    start = time.process_time()
    loss, _ = model.loss(tokens, tokens)
    loss.backward()
    return time.process_time() - start


@pytest.mark.parametrize(("name", "length"), [("rwkv7", 1024), ("transformer", 2048)])
def test_memory_of_a_step(name: str, length: int) -> None:
    spec = spec_of(name, "5m", vocab=VOCABULARY)
    demand = CostModel(spec, "cpu", "32-true")
    held = demand.work(1, length, False).moments.sum(axis=1).max()
    predicted = 4 * demand.sizes(length).parameters + held
    outcome = isolated.run(real_step, (spec, length, 1), 300)
    assert outcome.status == "ok", outcome.error
    # The allocator's surplus, which a plan measures, only ever adds to what tensors hold.
    assert 0.95 < outcome.facts["peak_bytes"] / predicted < 1.35


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size", "length"), POINTS)
def test_memory_and_time_within_a_quarter(name: str, size: str, length: int) -> None:
    spec = spec_of(name, size, vocab=VOCABULARY)
    demand = CostModel(spec, "cpu", "32-true")
    work = demand.work(1, length, False)
    threads = torch.get_num_threads()
    try:
        found = calibrate(spec, "32-true", threads=1)
    finally:
        torch.set_num_threads(threads)
    outcome = isolated.run(real_step, (spec, length, 4), 600)
    assert outcome.status == "ok", outcome.error
    seconds = compute_seconds(found.rates, work)
    assert seconds == pytest.approx(outcome.facts["seconds"], rel=0.25)
    held = found.allocator_overhead * work.moments.sum(axis=1).max()
    held += 4 * demand.sizes(length).parameters
    assert held == pytest.approx(outcome.facts["peak_bytes"], rel=0.25)
