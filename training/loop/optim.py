"""AdamW, or Muon beside it, over the groups a model names."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import LambdaLR

from conf.schema import OptimConf
from models.tuning import frozen_names, tuned_groups


class AdamW(torch.optim.AdamW):
    """Torch's, which advances only this process's share of what is sharded.

    Torch would ask for each operation on sharded tensors how its result is to be sharded, which for
    lists of hundreds of them takes minutes; here every element goes its own way.
    """

    def _init_group(self, group: dict[str, Any], *lists: list[Tensor]) -> bool:
        has_complex = super()._init_group(group, *lists)
        for tensors in lists:
            tensors[:] = [local(tensor) for tensor in tensors]
        return has_complex


def local(tensor: Tensor) -> Tensor:
    """What lies with this process; shares memory with `tensor`."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
    """Scale gradients so that their norm over all processes is at most `limit`; the norm before."""
    parameters = [parameter for parameter in parameters if parameter.grad is not None]
    if not any(isinstance(parameter, DTensor) for parameter in parameters):
        return torch.nn.utils.clip_grad_norm_(parameters, limit)
    shares = [local(parameter.grad) for parameter in parameters if parameter.grad is not None]
    square = torch.nn.utils.get_total_norm(shares) ** 2
    distributed.all_reduce(square)
    norm = square.sqrt()
    torch._foreach_mul_(shares, torch.clamp(limit / (norm + 1e-6), max=1.0))
    return norm


LIKE_ADAMW = "match_rms_adamw"
"""Muon's updates are as large as AdamW's, so that one rate serves both (Liu et al. 2025)."""


@dataclass(frozen=True)
class Group:
    """Parameters that one optimizer updates alike."""

    names: tuple[str, ...]
    lr_scale: float
    decay: bool
    muon: bool


def optimizer_groups(model: nn.Module, name: str) -> list[Group]:
    """The groups of the optimizer called `name`, in its order: those of Muon come first.

    Muon takes the matrices inside the blocks. Embedding and head, whose rows are looked up or
    compared one by one, and everything that is no matrix stay with AdamW (Jordan et al. 2024).
    Frozen parameters are in no group.
    Raises `ValueError` unless the model's `param_groups` name every parameter exactly once.
    """
    parameters = dict(model.named_parameters())
    left = frozen_names(model)
    groups = tuned_groups(model) if left else model.param_groups()  # type: ignore[operator]
    named = [name for group in groups for name in group.names]
    if sorted(named) != sorted(name for name in parameters if name not in left):
        raise ValueError(f"param_groups of {type(model).__name__} must name each parameter once")

    def is_muon(parameter: str) -> bool:
        ends = parameter.startswith(("emb.", "head."))
        return name == "muon" and parameters[parameter].ndim == 2 and not ends

    return [
        Group(names, group.lr_scale, group.decay, muon)
        for muon in (True, False)
        for group in groups
        if (names := tuple(each for each in group.names if is_muon(each) == muon))
    ]


def build_optimizer(model: nn.Module, conf: OptimConf) -> torch.optim.Optimizer:
    """The optimizer of a configuration, with one of its groups per `Group`."""
    peak = conf.lr
    if conf.lr_width:  # one rate for all sizes
        peak *= math.sqrt(conf.lr_width / model.config.n_embd)  # type: ignore[union-attr, operator]
    parameters = dict(model.named_parameters())

    def settings(muon: bool) -> list[dict[str, Any]]:
        return [
            {
                "params": [parameters[name] for name in group.names],
                "lr": peak * group.lr_scale,
                "weight_decay": conf.weight_decay if group.decay else 0.0,
            }
            for group in optimizer_groups(model, conf.name)
            if group.muon == muon
        ]

    adamw = AdamW(settings(False), betas=(conf.beta1, conf.beta2), eps=conf.eps, fused=True)
    if not (matrices := settings(True)):
        return adamw
    return Both(torch.optim.Muon(matrices, adjust_lr_fn=LIKE_ADAMW), adamw)


class Both(torch.optim.Optimizer):
    """Two optimizers as one: groups and states of the first, then those of the second."""

    def __init__(self, first: torch.optim.Optimizer, second: torch.optim.Optimizer) -> None:
        self._parts = (first, second)
        super().__init__([*first.param_groups, *second.param_groups], {})
        self._share()

    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        """Let the parts work on this optimizer's groups and states, not on their own."""
        first, second = self._parts
        count = len(first.param_groups)
        first.param_groups, second.param_groups = (
            self.param_groups[:count],
            self.param_groups[count:],
        )
        first.state = second.state = self.state


SETTINGS = ("weight_decay", "betas", "eps", "initial_lr")
"""What the configuration decides of a group; Muon's have no betas."""


def configured(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """The settings of each group as the configuration has them, once a schedule has been built."""
    return [
        {key: group[key] for key in SETTINGS if key in group} for group in optimizer.param_groups
    ]


def set_configured(schedule: LambdaLR, settings: list[dict[str, Any]]) -> tuple[float, float]:
    """Give these settings, and the rates of its step, to an optimizer whose state was restored.

    Returns the next step's rate of the first group before and after.
    """
    groups = schedule.optimizer.param_groups
    before = float(groups[0]["lr"])
    for group, values in zip(groups, settings, strict=True):
        group.update(values)
    schedule.base_lrs = [values["initial_lr"] for values in settings]
    rates = [
        base * factor(schedule.last_epoch)
        for base, factor in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
    ]
    for group, rate in zip(groups, rates, strict=True):
        group["lr"] = rate
    schedule._last_lr = rates
    return before, float(groups[0]["lr"])
