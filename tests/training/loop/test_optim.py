"""The optimizer and its schedule of learning rates."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest

from conf.schema import OptimConf
from models.contract import ParamGroup
from models.registry import build
from tests.registered_models import spec_of
from training.loop.optim import build_optimizer, build_schedule, lr_factor

CONF = OptimConf(lr=1e-3, final_lr=1e-4, warmup_steps=10)


def test_schedule_has_its_corners() -> None:
    factors = [lr_factor(step, 110, CONF) for step in range(110)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == pytest.approx(1.0)
    assert factors[10] == pytest.approx(1.0)
    assert factors[-1] == pytest.approx(0.1)
    halfway = 10 + 99 / 2
    assert (factors[math.floor(halfway)] + factors[math.ceil(halfway)]) / 2 == pytest.approx(0.55)
    assert all(a >= b for a, b in itertools.pairwise(factors[10:]))


def test_schedule_survives_tiny_runs() -> None:
    for steps in (1, 2, 10, 11, 12):
        assert all(0 < lr_factor(step, steps, CONF) <= 1 for step in range(steps + 3))
    assert lr_factor(0, 5, OptimConf(warmup_steps=0)) == 1.0


def test_groups_get_their_rates_and_decay() -> None:
    model: Any = build(spec_of("rwkv4"))
    optimizer = build_optimizer(model, CONF)
    build_schedule(optimizer, 100, CONF)
    rates = {}
    names = {parameter: name for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            rates[names[parameter]] = (group["lr"] / 1e-4, group["weight_decay"])
    assert rates["blocks.0.att.time_decay"] == (pytest.approx(2.0), 0.0)
    assert rates["blocks.1.att.time_first"] == (pytest.approx(3.0), 0.0)
    assert rates["blocks.1.att.time_mix_k"] == (pytest.approx(1.0), 0.0)
    assert rates["blocks.0.ln0.weight"] == (pytest.approx(1.0), 0.0)
    for matrix in ("emb.weight", "head.weight", "blocks.0.ffn.key.weight"):
        assert rates[matrix] == (pytest.approx(1.0), 0.1)


def test_a_forgotten_parameter_is_an_error() -> None:
    model: Any = build(spec_of("gpt"))
    model.param_groups = lambda: [ParamGroup(("emb.weight",))]
    with pytest.raises(ValueError, match="each parameter once"):
        build_optimizer(model, CONF)


def test_one_rule_for_the_rates_of_all_widths() -> None:
    def rate(n_embd: int, **rule: Any) -> float:
        model: Any = build(spec_of("transformer", n_embd=n_embd))
        return float(build_optimizer(model, OptimConf(lr=1e-3, **rule)).param_groups[0]["lr"])

    assert rate(64) == rate(256) == 1e-3
    assert rate(256, lr_width=256) == 1e-3
    assert rate(64, lr_width=256) == pytest.approx(2e-3)
    assert rate(1024, lr_width=256) == pytest.approx(0.5e-3)
