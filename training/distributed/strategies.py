"""How processes share a run: copies (DDP), shards (FSDP) or DeepSpeed's ZeRO.

Whatever the strategy, a checkpoint is the same file with the same names: process 0 gathers weights
and optimizer state whole. So any checkpoint continues under any strategy and any number of
processes, and converts like every other. The price is that the whole state must pass through the
memory of the first machine; docs/distributed.md has the arithmetic. With `checkpoint.sharded` each
process of FSDP writes its own share instead, which is read under the same names.
"""

from __future__ import annotations

import torch
from lightning.pytorch.strategies import Strategy

from conf.schema import TrainConf, TrainerConf
from core.precision import of_training
from models.layers.compiled import NONE, chosen

SHARDED = ("fsdp", "deepspeed_1", "deepspeed_2", "deepspeed_3")


def build_strategy(conf: TrainConf) -> Strategy | str:
    """Lightning's strategy for `trainer.strategy`. Imports DeepSpeed only where it is asked for."""
    trainer = conf.trainer
    if trainer.strategy == "fsdp":
        from training.distributed.fsdp import FullyShard

        # Where batches decide how often a block is called, processes cannot gather its weights
        # together in between.
        by_need = conf.training.segment > 0 or conf.data.packing == "documents"
        half = arithmetic_of(trainer) == "bf16-mixed"
        return FullyShard(by_need, trainer.offload, conf.checkpoint.sharded, half)
    if trainer.strategy.startswith("deepspeed_"):
        from training.distributed.zero import Zero

        stage = int(trainer.strategy[-1])
        return Zero(stage, trainer.offload, arithmetic_of(trainer), not on_gpu(trainer))
    return trainer.strategy


def reads_shares(conf: TrainerConf) -> bool:
    """Whether each process reads its own share of a sharded checkpoint, and not all of it."""
    return conf.strategy == "fsdp"


def precision_of(conf: TrainerConf) -> str:
    """Precision of Lightning's Trainer: ZeRO keeps weights in fp32 and casts by itself."""
    return "32-true" if conf.strategy.startswith("deepspeed_") else arithmetic_of(conf)


def arithmetic_of(conf: TrainerConf) -> str:
    """`trainer.precision`, or what it means on this machine where it is `auto`."""
    return of_training(conf.precision, on_gpu(conf))


def compiler_of(conf: TrainerConf) -> str:
    """The back end that compiles blocks, or none. Processes that share a sequence talk inside of
    blocks, which no graph can hold."""
    return NONE if conf.sequence_parallel else chosen(conf.compile, on_gpu(conf))


def on_gpu(conf: TrainerConf) -> bool:
    """Whether a training is on a GPU of CUDA here."""
    return conf.accelerator != "cpu" and torch.cuda.is_available()
