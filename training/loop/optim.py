"""AdamW over the groups a model names, with linear warm-up and cosine decay."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import LambdaLR

from conf.schema import OptimConf


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


def build_optimizer(model: nn.Module, conf: OptimConf) -> AdamW:
    """One optimizer group per `ParamGroup` of the model (a `models.contract.Model`).

    Raises `ValueError` unless every parameter is named exactly once.
    """
    peak = peak_rate(conf, model.config.n_embd)  # type: ignore[union-attr, arg-type]
    parameters = dict(model.named_parameters())
    groups = model.param_groups()  # type: ignore[operator]
    named = [name for group in groups for name in group.names]
    if sorted(named) != sorted(parameters):
        raise ValueError(f"param_groups of {type(model).__name__} must name each parameter once")
    return AdamW(
        [
            {
                "params": [parameters[name] for name in group.names],
                "lr": peak * group.lr_scale,
                "weight_decay": conf.weight_decay if group.decay else 0.0,
            }
            for group in groups
            if group.names
        ],
        betas=(conf.beta1, conf.beta2),
        eps=conf.eps,
        fused=True,
    )


def peak_rate(conf: OptimConf, width: int) -> float:
    """`conf.lr`, times sqrt(lr_width / width) where the rule is asked for: one for all sizes."""
    return conf.lr * math.sqrt(conf.lr_width / width) if conf.lr_width else conf.lr


def lr_factor(step: int, max_steps: int, conf: OptimConf) -> float:
    """Multiplier of the peak rate at a step counted from 0.

    Linear from 1/warmup to 1 over `warmup_steps`, then half a cosine down to `final_lr / lr`,
    reached at the last step. A single step after the warm-up has the peak rate; a run that ends
    before its warm-up does never reaches it. With a peak rate of 0 the multiplier says nothing.
    """
    if step < conf.warmup_steps:
        return (step + 1) / conf.warmup_steps
    progress = (step - conf.warmup_steps) / max(max_steps - 1 - conf.warmup_steps, 1)
    floor = conf.final_lr / conf.lr if conf.lr else 0.0
    return floor + (1 - floor) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2


def only_rises(max_steps: int, conf: OptimConf) -> bool:
    """Whether the last step still belongs to the warm-up, so that no cosine follows."""
    return conf.warmup_steps >= max_steps


def build_schedule(optimizer: torch.optim.Optimizer, max_steps: int, conf: OptimConf) -> LambdaLR:
    """`lr_factor` as a scheduler stepped once per optimizer step."""
    return LambdaLR(optimizer, lambda step: lr_factor(step, max_steps, conf))


SETTINGS = ("weight_decay", "betas", "eps", "initial_lr")


def configured(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """The settings of each group as the configuration has them, once a schedule has been built."""
    return [{key: group[key] for key in SETTINGS} for group in optimizer.param_groups]


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
