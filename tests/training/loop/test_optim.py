"""The optimizer: which parameter gets which rate, decay and rule."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from conf.schema import OptimConf
from models.contract import ParamGroup
from models.registry import build
from tests.registered_models import spec_of
from training.loop.optim import LIKE_ADAMW, build_optimizer, optimizer_groups
from training.loop.schedules import build_schedule

CONF = OptimConf(lr=1e-3, final_lr=1e-4, warmup_steps=10)


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


def test_muon_takes_the_matrices_of_the_blocks() -> None:
    model: Any = build(spec_of("rwkv7"))
    groups = optimizer_groups(model, "muon")
    parameters = dict(model.named_parameters())
    muon = {name for group in groups if group.muon for name in group.names}
    assert muon == {
        name for name, each in parameters.items() if each.ndim == 2 and name.startswith("blocks.")
    }
    assert sorted(name for group in groups for name in group.names) == sorted(parameters)
    optimizer = build_optimizer(model, OptimConf(name="muon", lr=1e-3))
    held = [each for group in optimizer.param_groups for each in group["params"]]
    assert {*map(id, held)} == {*map(id, parameters.values())}


def test_muon_is_torchs_own_beside_adamw_and_survives_a_reload() -> None:
    """Two optimizers that know nothing of each other make the same steps, also after a reload."""
    conf = OptimConf(name="muon", lr=1e-2, weight_decay=0.1)
    model: Any = build(spec_of("transformer"))
    twin: Any = copy.deepcopy(model)
    optimizer = build_optimizer(model, conf)
    named = dict(twin.named_parameters())
    groups = optimizer_groups(twin, "muon")

    def of(muon: bool) -> list[dict[str, Any]]:
        return [
            {
                "params": [named[name] for name in group.names],
                "lr": 1e-2 * group.lr_scale,
                "weight_decay": 0.1 * group.decay,
            }
            for group in groups
            if group.muon == muon
        ]

    apart = [
        torch.optim.Muon(of(True), adjust_lr_fn=LIKE_ADAMW),
        torch.optim.AdamW(of(False), betas=(conf.beta1, conf.beta2), eps=conf.eps, fused=True),
    ]
    for step in range(4):
        if step == 2:  # as a resumed run does
            state = copy.deepcopy(optimizer.state_dict())
            optimizer = build_optimizer(model, conf)
            optimizer.load_state_dict(state)
        torch.manual_seed(step)
        for parameter, other in zip(model.parameters(), twin.parameters(), strict=True):
            parameter.grad = torch.randn_like(parameter)
            other.grad = parameter.grad.clone()
        optimizer.step()
        for each in apart:
            each.step()
    for parameter, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(parameter, other)
