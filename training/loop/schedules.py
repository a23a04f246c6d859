"""The learning rate over a training: linear warm-up, then one of the schedules by name."""

from __future__ import annotations

import math

import torch
from torch.optim.lr_scheduler import LambdaLR

from conf.schema import OptimConf, decay_steps


def lr_factor(step: int, max_steps: int, conf: OptimConf) -> float:
    """Multiplier of the peak rate at a step counted from 0.

    Linear from 1/warmup to 1 over `warmup_steps`. What follows ends at `final_lr / lr` with the
    last step: half a cosine; a straight line; or, for `wsd`, the peak rate until the last
    `decay_steps` and then 1 - sqrt (Hägele et al. 2024, section 3). `constant` stays at the peak.
    A single step after the warm-up has the peak rate; a run that ends before its warm-up does
    never reaches it. With a peak rate of 0 the multiplier says nothing.
    """
    if step < conf.warmup_steps:
        return (step + 1) / conf.warmup_steps
    floor = conf.final_lr / conf.lr if conf.lr else 0.0
    progress = (step - conf.warmup_steps) / max(max_steps - 1 - conf.warmup_steps, 1)
    if conf.schedule == "wsd":
        progress = (step - decay_start(max_steps, conf) + 1) / max(decay_steps(max_steps, conf), 1)
    progress = min(max(progress, 0.0), 1.0)
    left = {
        "cosine": (1 + math.cos(math.pi * progress)) / 2,
        "linear": 1 - progress,
        "constant": 1.0,
        "wsd": 1 - math.sqrt(progress) if decay_steps(max_steps, conf) else 1.0,
    }[conf.schedule]
    return floor + (1 - floor) * left


def decay_start(max_steps: int, conf: OptimConf) -> int:
    """The first step of the decay of `schedule=wsd`, counted from 0."""
    return max_steps - decay_steps(max_steps, conf)


def describe_end(max_steps: int, conf: OptimConf) -> str:
    """How the rate goes on, as the end of a sentence."""
    if only_rises(max_steps, conf):
        return f"it only rises until the last step, {max_steps}"
    if conf.schedule == "constant" or (conf.schedule == "wsd" and not decay_steps(max_steps, conf)):
        return f"it stays constant until the last step, {max_steps}"
    if conf.schedule == "wsd":
        return f"it falls from step {decay_start(max_steps, conf)} to the last step, {max_steps}"
    return f"the {conf.schedule} now ends at step {max_steps}"


def only_rises(max_steps: int, conf: OptimConf) -> bool:
    """Whether the last step still belongs to the warm-up, so that nothing follows it."""
    return conf.warmup_steps >= max_steps


def build_schedule(optimizer: torch.optim.Optimizer, max_steps: int, conf: OptimConf) -> LambdaLR:
    """`lr_factor` as a scheduler stepped once per optimizer step."""
    return LambdaLR(optimizer, lambda step: lr_factor(step, max_steps, conf))
