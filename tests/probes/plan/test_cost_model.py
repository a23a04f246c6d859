"""Scaled traces are those of the real size, operation by operation, and what torch counts."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import yaml

from conf.schema import MachineConf
from models import step_trace
from models.contract import TRAINING_FACTOR
from models.layers.loss import CHUNK_TOKENS
from models.registry import ModelSpec
from models.step_trace import trace
from probes.plan.cost_model import LAYERS, CostModel, StepCost
from probes.plan.device_rates import Roofline
from probes.plan.plan import compute_seconds
from probes.plan.strategies import STRATEGIES, optimizer_bytes
from tests.registered_models import spec_of

CONF = Path(__file__).parents[3] / "conf"


def of_all_layers(work: StepCost, quantity: str) -> float:
    few, more = (sum(getattr(op, quantity) for op in work.ops[n]) for n in LAYERS)
    return few + (work.layers - LAYERS[0]) * (more - few)


@pytest.mark.parametrize(
    ("name", "batch", "length", "checkpointing"),
    [
        ("rwkv4", 1, 3072, True),
        ("transformer", 1, 3072, False),
        pytest.param("rwkv7", 1, 3072, True, marks=pytest.mark.slow),
        pytest.param("transformer", 4, 2560, False, marks=pytest.mark.slow),
    ],
)
def test_a_scaled_step_is_the_step(name: str, batch: int, length: int, checkpointing: bool) -> None:
    spec = spec_of(name, "0.5m", n_layer=5)
    work = CostModel(spec, "cpu", "32-true").work(batch, length, checkpointing)
    ops = trace(spec, batch, length, 5, "cpu", "32-true", checkpointing)
    assert batch * length % CHUNK_TOKENS == 0
    for quantity in ("flops", "bytes"):
        real = sum(getattr(op, quantity) for op in ops)
        assert of_all_layers(work, quantity) == pytest.approx(real, rel=1e-9)
    real = max(op.activations + op.gradients for op in ops)
    close = 0.04 if checkpointing else 0.015  # the highest moment may lie in a block in the middle
    assert work.moments.sum(axis=1).max() == pytest.approx(real, rel=close)


def test_scores_that_are_kept_make_memory_quadratic() -> None:
    def peak(length: int, **by_hand: str) -> float:
        demand = CostModel(spec_of("transformer", **by_hand), "cpu", "32-true")
        return float(demand.work(1, length, False).moments.sum(axis=1).max())

    lengths = 65536, 131072
    fused, kept = ([peak(at, **hand) for at in lengths] for hand in ({}, {"attention": "math"}))
    assert fused[1] / fused[0] == pytest.approx(2, rel=0.02)
    assert kept[1] / kept[0] == pytest.approx(4, rel=0.02)


@pytest.mark.parametrize("name", ["rwkv4", "transformer"])
def test_operations_are_those_the_model_counts(name: str) -> None:
    spec = spec_of(name, "nano")
    demand = CostModel(spec, "cuda", "32-true")
    work = demand.work(1, 2048, False)
    # Attention's backward pass forms the scores again, which the convention leaves out.
    again = [
        sum(op.flops for op in work.ops[n] if op.kind == "attention backward") / 5 for n in LAYERS
    ]
    again_in_all = again[0] + (work.layers - LAYERS[0]) * (again[1] - again[0])
    assert of_all_layers(work, "flops") - again_in_all == pytest.approx(
        3 * demand.sizes(2048).forward_flops, rel=0.03
    )


def test_a_gpu_runs_the_fused_formulas_and_sums_over_rows_in_two_launches() -> None:
    spec = spec_of("rwkv7")
    ops = {device: trace(spec, 1, 64, 2, device, "bf16-mixed", False) for device in ("cpu", "cuda")}
    kinds = {device: {op.kind for op in traced} for device, traced in ops.items()}
    assert "token_shift_mix" in kinds["cpu"] and kinds["cuda"] == kinds["cpu"] | {"round_all"}
    summed = "log_decay_backward"
    counts = {device: [op.count for op in ops[device] if op.kind == summed] for device in ops}
    assert counts == {"cpu": [1, 1], "cuda": [2, 2]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "goal"),
    [("rwkv7", "0.4b", 0.4), ("rwkv7", "1.5b", 0.45), ("transformer", "0.4b", 0.45)],
)
def test_a_gpu_is_used_as_planned(name: str, size: str, goal: float) -> None:
    """MFU of an H200 at 8 x 4,096 tokens, as `plan.py` has it; nothing is measured."""
    conf = yaml.safe_load((CONF / "model" / f"{name}.yaml").read_text())
    machine = yaml.safe_load((CONF / "machine" / "h200.yaml").read_text())
    known = {field.name for field in fields(MachineConf)}
    rates = Roofline(
        MachineConf(**{key: value for key, value in machine.items() if key in known}), "bf16-mixed"
    )
    config = {**conf["sizes"][size], "vocab_size": 65536}
    demand = CostModel(ModelSpec(name, size, conf["target"], config), "cuda", "bf16-mixed")
    sizes = demand.sizes(4096)
    seconds = compute_seconds(rates, demand.work(8, 4096, False))
    seconds += rates.stream(optimizer_bytes(STRATEGIES[0], 1, sizes, "bf16-mixed"))
    mfu = TRAINING_FACTOR * sizes.forward_flops * 8 / seconds / rates.peak_flops
    assert mfu >= goal


def test_checkpointing_trades_activations_for_operations() -> None:
    demand = CostModel(spec_of("transformer", n_layer=12), "cpu", "32-true")
    plain, saving = (demand.work(1, 2048, checkpointing) for checkpointing in (False, True))
    held = [numpy.max(work.moments[:, 0]) for work in (plain, saving)]
    assert held[1] < held[0] / 2
    flops = [of_all_layers(work, "flops") for work in (plain, saving)]
    assert 1.2 < flops[1] / flops[0] < 4 / 3


def test_sizes_count_every_parameter_once() -> None:
    spec = spec_of("rwkv7", "nano")
    sizes = CostModel(spec, "cpu", "32-true").sizes(128)
    assert sizes.root < sizes.parameters
    assert sizes.parameters - sizes.root <= spec.config["n_layer"] * sizes.block
    assert sizes.state_bytes == 4 * spec.config["n_layer"] * (2 + 32) * spec.config["n_embd"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("others::scan", "recurrence"),
        ("others::scan_backward", "recurrence backward"),
        ("aten::bmm.out", "thin matmul"),
        ("crossover::unknown", "unknown"),
    ],
)
def test_kernels_are_told_by_what_they_say(
    name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that says its operations and is not torch's is no product of matrices."""
    flops = 0.0 if kind == "unknown" else 7.0
    registry: dict[Any, Any] = {name: lambda *_, out_val: flops} if flops else {}
    monkeypatch.setattr(step_trace, "flop_registry", registry)
    func = SimpleNamespace(_overloadpacket=name, name=lambda: name)
    assert step_trace._arithmetic(func, (), {}, None) == (kind, flops)
