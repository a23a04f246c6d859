"""AdamW over the groups a contestant names, with linear warm-up and cosine decay."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from conf.schema import OptimConf


def build_optimizer(model: nn.Module, conf: OptimConf) -> torch.optim.AdamW:
    """One optimizer group per `ParamGroup` of the model (a `models.contract.Contestant`).

    Raises `ValueError` unless every parameter is named exactly once.
    """
    peak = peak_rate(conf, model.config.n_embd)  # type: ignore[union-attr, arg-type]
    parameters = dict(model.named_parameters())
    groups = model.param_groups()  # type: ignore[operator]
    named = [name for group in groups for name in group.names]
    if sorted(named) != sorted(parameters):
        raise ValueError(f"param_groups of {type(model).__name__} must name each parameter once")
    return torch.optim.AdamW(
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
    reached at the last step.
    """
    if step < conf.warmup_steps:
        return (step + 1) / conf.warmup_steps
    progress = (step - conf.warmup_steps) / max(max_steps - 1 - conf.warmup_steps, 1)
    floor = conf.final_lr / conf.lr
    return floor + (1 - floor) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2


def build_schedule(optimizer: torch.optim.Optimizer, max_steps: int, conf: OptimConf) -> LambdaLR:
    """`lr_factor` as a scheduler stepped once per optimizer step."""
    return LambdaLR(optimizer, lambda step: lr_factor(step, max_steps, conf))
