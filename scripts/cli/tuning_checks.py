"""Values of `tune` that do not fit to one another, to the rest of a training or to its model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from conf.schema import TrainConf, TuneConf
from core.errors import UserError
from models.registry import ModelSpec

LAYERS = 2
"""A model of so many has every kind of layer."""


def tuning_problems(config: TrainConf) -> Iterator[str]:
    """What words alone decide."""
    tune, trainer = config.tune, config.trainer
    if tune.mode != "lora":
        for key in ("rank", "alpha", "targets"):
            value = getattr(tune, key)
            if value != getattr(TuneConf(), key):
                yield f"tune.{key}={value} changes nothing without tune=lora"
    if tune.mode == "full":
        return
    key = f"tune={tune.mode}"
    if not config.init_from and config.resume in ("auto", "never"):
        yield (
            f"{key} leaves the weights of from= as they are, and there is no from=: give a run, a "
            "checkpoint or a file of weights; tune=full trains a model from nothing"
        )
    if config.take == "weights,optimizer":
        yield f"{key}: the optimizer of other parameters cannot be taken over: use take=weights"
    if config.resize_vocab:
        yield f"{key}: rows that resize_vocab=true adds would never be trained: use tune=full"
    if trainer.strategy not in ("auto", "ddp"):
        yield f"{key}: not with trainer.strategy={trainer.strategy}; use ddp"
    if config.optim.name != "adamw":
        yield f"{key}: optim.name={config.optim.name} is for whole matrices; use optim.name=adamw"
    if tune.mode == "state" and trainer.sequence_parallel:
        yield f"{key}: not with trainer.sequence_parallel=true; use training.segment"
    if tune.mode == "state" and config.training.bptt == "truncated":
        yield (
            f"{key}: training.bptt=truncated cuts the gradient before it reaches the state; use "
            "training.bptt=exact"
        )


def deep_tuning_problems(config: TrainConf, spec: ModelSpec) -> Iterator[str]:
    """What only the model decides."""
    if config.tune.mode == "full":
        return
    from models.layer_pattern import period
    from models.meta import build_meta
    from models.tuning import LORA, adapted_names, check, linear_layers
    from training.checkpoints.frozen import tuning_of

    tuning = tuning_of(config.tune)
    assert tuning is not None
    layers = min(max(LAYERS, period(spec.config)), spec.config["n_layer"])
    try:
        model = build_meta(replace(spec, config={**spec.config, "n_layer": layers}))
        check(model, tuning)
        if tuning.mode == LORA:
            names = adapted_names(model, tuning.targets)
            layers_of = [linear_layers(block) for block in model.blocks]
            adapted = [each[name] for each in layers_of for name in names if name in each]
            most = max(min(layer.in_features, layer.out_features) for layer in adapted)
            if tuning.rank > most:
                yield (
                    f"tune.rank={tuning.rank}: the layers that get an adapter have the rank {most} "
                    "at most: more only takes memory and time"
                )
    except UserError as error:
        yield str(error)
