"""What a model cannot do that makes whole images and reads none (`models.contract.makes_rows`).

It imports PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from conf.schema import ProbeConf, TrainConf
from data.tasks.task_data import TASKS, judges
from models.registry import ModelSpec, makes_rows


def image_training_problems(config: TrainConf, spec: ModelSpec) -> Iterator[str]:
    """What of a training is not for such a model, if it is one."""
    if not makes_rows(spec.target):
        return
    name, data, trainer, training = spec.name, config.data, config.trainer, config.training
    if not judges(data.corpus):
        able = ", ".join(f"data={task}" for task in TASKS if judges(task))
        yield (
            f"model={name} makes whole images, and of data={data.corpus} nothing tells which are "
            f"right: use {able}"
        )
        return
    if config.objective == "val/accuracy":
        yield f"objective=val/accuracy: what model={name} makes has val/exact_match"
    asked = {
        "data.validation": bool(data.validation),
        f"optim.l2wrap={config.optim.l2wrap:g}": config.optim.l2wrap > 0,
        f"optim.z_loss={config.optim.z_loss:g}": config.optim.z_loss > 0,
        f"optim.ema={config.optim.ema:g}": config.optim.ema > 0,
        f"tune={config.tune.mode}": config.tune.mode != "full",
        "training.gradient_checkpointing=true": training.gradient_checkpointing,
        f"training.patience={training.patience}": training.patience > 0,
        f"training.target_loss={training.target_loss:g}": training.target_loss > 0,
        f"training.prune={training.prune}": training.prune != "never",
        "training.sample_prompt": bool(training.sample_prompt),
        f"trainer.compile={trainer.compile}": trainer.compile not in ("auto", "none"),
        f"trainer.strategy={trainer.strategy}": trainer.strategy != "auto",
        f"trainer.devices={trainer.devices}": trainer.devices > 1,
    }
    wrong = [key for key, is_asked in asked.items() if is_asked]
    if wrong:
        yield f"model={name} makes images and has no logits, blocks or falling loss: without " + (
            ", ".join(wrong)
        )


def image_probe_problems(config: ProbeConf, spec: ModelSpec) -> Iterator[str]:
    """What of a sweep is not for such a model, if it is one."""
    if not makes_rows(spec.target):
        return
    others = [probe for probe in config.probes if probe != "train"]
    if others:
        yield f"probes={others}: model={spec.name} makes images and reads nothing: probes=[train]"
    for length in config.lengths:
        if math.isqrt(length) ** 2 != length:
            yield f"lengths={length}: model={spec.name} makes square images: 64, 144, 256 ..."
