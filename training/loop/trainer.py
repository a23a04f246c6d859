"""Lightning's Trainer as a run uses it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.profilers import Profiler

from conf.schema import TrainConf
from training.distributed.local_processes import RankInfo
from training.distributed.strategies import build_strategy, on_gpu, precision_of
from training.loop.loss_scaling import MixedPrecision


def build_trainer(
    conf: TrainConf,
    rank: RankInfo,
    loggers: Sequence[Logger],
    callbacks: list[lightning.Callback],
    plugins: list[Any],
    profiler: Profiler | None = None,
) -> lightning.Trainer:
    """Lightning's Trainer with our own checkpoints, progress and endless single epoch."""
    accumulate = conf.trainer.accumulate_grad_batches
    val_every = conf.trainer.val_check_interval
    precision: Any = precision_of(conf.trainer)
    if precision == "16-mixed":
        device = "cuda" if on_gpu(conf.trainer) else "cpu"
        plugins, precision = [*plugins, MixedPrecision(device)], None
    trainer = lightning.Trainer(
        max_steps=conf.trainer.max_steps,
        max_epochs=-1,
        accelerator=conf.trainer.accelerator,
        devices=rank.local_world,
        num_nodes=rank.world // rank.local_world,
        strategy=build_strategy(conf),
        precision=precision,
        accumulate_grad_batches=accumulate,
        gradient_clip_val=conf.trainer.gradient_clip_val,
        val_check_interval=val_every * accumulate if val_every else 1.0,
        limit_val_batches=1.0 if val_every else 0,
        check_val_every_n_epoch=None if val_every else 1,
        num_sanity_val_steps=0,
        log_every_n_steps=conf.trainer.log_every_n_steps,  # of callbacks that log by themselves
        logger=loggers,
        callbacks=callbacks,
        plugins=plugins,
        profiler=profiler,
        use_distributed_sampler=False,
        # Else Lightning would add a checkpoint callback of its own.
        enable_checkpointing=any(isinstance(each, Checkpoint) for each in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    # Lightning's handlers communicate between processes, and so may hang; `Signals` has its own.
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    return trainer
