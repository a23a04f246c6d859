"""Hand arithmetic of what devices hold and send, and the checkpoint interval against a search."""

from __future__ import annotations

import math

import pytest
from torch.nn import Linear

from conf.schema import MachineConf
from models.meta import build_meta
from models.step_trace import Op
from probes.plan.cost_model import CostModel
from probes.plan.device_rates import Curve, Roofline, fit_curves
from probes.plan.reliability import reliability
from probes.plan.strategies import STRATEGIES, bandwidth, memory, traffic
from tests.registered_models import spec_of

BY_NAME = {strategy.name: strategy for strategy in STRATEGIES}


def test_what_is_shared_is_held_in_part() -> None:
    demand = CostModel(spec_of("transformer"), "cpu", "32-true")
    sizes, work = demand.sizes(256), demand.work(1, 256, False)
    held = {name: memory(strategy, 8, sizes, work, "32-true") for name, strategy in BY_NAME.items()}
    whole = 4 * sizes.parameters
    assert held["one device"].weights == held["ddp"].weights == held["zero-2"].weights == whole
    assert held["fsdp"].weights == held["zero-3"].weights == whole / 8
    assert held["ddp"].optimizer == 2 * whole
    assert held["zero-1"].optimizer == held["zero-2"].optimizer == 2 * whole / 8
    assert held["one device"].gathered == 0
    assert held["ddp"].gathered == whole  # the gradients once more, in buckets
    for one in held.values():
        parts = (one.weights, one.gathered, one.optimizer, one.gradients, one.activations)
        assert one.total == sum(parts)


def test_traffic_is_that_of_rings() -> None:
    sizes = CostModel(spec_of("transformer"), "cpu", "32-true").sizes(256)
    whole = 4 * sizes.parameters
    sent = {
        name: traffic(strategy, 4, sizes, "32-true") / whole for name, strategy in BY_NAME.items()
    }
    assert sent == pytest.approx(
        {"one device": 0, "ddp": 1.5, "zero-1": 1.5, "zero-2": 1.5, "zero-3": 2.25, "fsdp": 2.25}
    )
    segments = traffic(BY_NAME["fsdp"], 4, sizes, "32-true", segments=10)
    assert segments == pytest.approx(10 * 3 * whole)
    assert traffic(BY_NAME["ddp"], 1, sizes, "32-true") == 0
    machine = MachineConf(devices_per_node=8, link_bytes_s=9.0, network_bytes_s=4.0)
    assert [bandwidth(machine, devices) for devices in (8, 9)] == [9.0, 4.0]


def test_mixed_precision_sends_what_the_strategies_send() -> None:
    """All but fsdp were said to send bf16, and none did; fsdp does for matrices."""
    model = build_meta(spec_of("transformer"))
    matrices = sum(each.weight.numel() for each in model.modules() if isinstance(each, Linear))
    assert 0 < matrices < sum(parameter.numel() for parameter in model.parameters())
    sizes = CostModel(spec_of("transformer"), "cpu", "bf16-mixed").sizes(256)
    assert sizes.matrices == matrices

    def sent(name: str, precision: str) -> float:
        return traffic(BY_NAME[name], 4, sizes, precision) / 0.75

    for name in ("ddp", "zero-1", "zero-2", "zero-3"):
        assert sent(name, "bf16-mixed") == sent(name, "32-true") == 2 * sent(name, "bf16-true")
    assert sent("zero-3", "bf16-mixed") - sent("fsdp", "bf16-mixed") == 2 * 2 * matrices
    assert sent("fsdp", "32-true") == sent("zero-3", "32-true")


def test_the_checkpoint_interval_loses_least() -> None:
    def lost(save: float, interval: float, mean: float, restart: float) -> float:
        stretch = math.exp(restart / mean) * math.expm1((interval + save) / mean)
        return 1 - interval / (mean * stretch)

    found = reliability(50_000, 1000, 84e9 * 3, 10e9, 600)
    assert found.failure_every == 50 * 3600
    assert found.save == pytest.approx(25.2)
    assert found.interval == pytest.approx(math.sqrt(2 * 25.2 * 180_000), rel=0.01)  # Young's
    tried = [lost(found.save, found.interval * 1.02**step, 180_000, 600) for step in range(-60, 60)]
    assert found.lost == pytest.approx(lost(found.save, found.interval, 180_000, 600))
    assert found.lost <= min(tried) * 1.0005
    assert reliability(1, 1_000_000, 1e12, 1e9, 600).lost == 1.0


def test_a_roofline_takes_the_slower_bound() -> None:
    machine = MachineConf(
        flops_fp32=100.0, memory_bytes_s=10.0, matmul_efficiency=0.5, launch_seconds=0.25
    )
    rates = Roofline(machine, "32-true")
    busy, moving = Op("matmul", 0, 500, 10, 0, 0), Op("matmul", 0, 50, 70, 0, 0)
    assert [rates.seconds(busy), rates.seconds(moving)] == [10, 7]
    assert rates.seconds(Op("memory", 0, 0, 1, 0, 0, count=3)) == 0.75


def test_curves_pass_through_what_was_measured() -> None:
    ops = [Op("memory", 0, 0, size, 0, 0, seconds) for size, seconds in ((100, 1), (10_000, 10))]
    curve = fit_curves(ops)["memory"]
    assert curve == Curve((100, 10_000), (1, 10))
    assert [curve.at(at) for at in (1, 100, 1000, 20_000)] == pytest.approx([1, 1, 10**0.5, 20])
