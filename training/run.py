"""One training run from its configuration to its summary: the order in which things happen."""

from __future__ import annotations

import logging
import math
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import lightning
import yaml
from lightning.pytorch.loggers.logger import Logger

from conf.schema import TrainConf
from data.batches import Batches
from data.store import Corpus, prepare
from models.files import write_text
from models.registry import ModelSpec, build
from training.checkpoint import AtomicCheckpointIO, Checkpointer, newest, saved
from training.datamodule import Tokens
from training.evaluate import full_validation
from training.folder import RunFolder
from training.identity import check_checkpoint, check_same_run, describe, flatten
from training.metrics import JsonlLogger
from training.module import LanguageModel
from training.monitor import Monitor, peak_memory
from training.tracking import TRAIN_AXES, Tracker

log = logging.getLogger("crossover")


def train(conf: TrainConf, spec: ModelSpec, folder: RunFolder) -> dict[str, Any]:
    """Train, continue or find finished the run in `folder`; returns its summary.

    The vocabulary size in `spec` is replaced by the corpus's own. Raises `UserError` for anything
    the user can mend; whatever had been saved before stays.
    """
    if conf.resume == "never" and (aside := folder.set_aside()):
        log.warning("%s existed: it is now %s", folder.path, aside)
    check_same_run(folder, describe(conf, spec))
    finished = folder.summary()
    if finished is not None and finished["steps"] >= conf.trainer.max_steps:
        log.warning("%s is finished (%d steps): nothing to do", folder.path, finished["steps"])
        return finished

    corpus = prepare(conf.data)
    spec = replace(spec, config={**spec.config, "vocab_size": corpus.vocab_size})
    identity = {"model": asdict(spec), "data": corpus.fingerprint}
    start = Path(conf.resume) if conf.resume not in ("auto", "never") else newest(folder)
    step = 0 if start is None else check_checkpoint(start, identity)

    write_text(folder.config, yaml.safe_dump(describe(conf, spec), sort_keys=False))
    corpus.tokenizer.save(folder.tokenizer)
    lightning.seed_everything(conf.seed, verbose=False)
    model: Any = build(spec)
    model.gradient_checkpointing = conf.training.gradient_checkpointing
    module = LanguageModel(model, conf.optim, conf.trainer.max_steps)
    datamodule = Tokens(corpus, conf.data, conf.seed, conf.training.val_windows)
    monitor = Monitor(conf, corpus.meta.val_tokens_per_byte)
    callbacks = [monitor, Checkpointer(folder, conf.checkpoint.every, identity)]

    metrics = JsonlLogger(folder.metrics)
    metrics.rewind(step)
    if step:
        log.warning("%s: continuing from step %d", folder.path, step)
    with start_tracker(conf, spec, folder) as tracker:
        with quiet():
            trainer = build_trainer(conf, [metrics, tracker], callbacks)
            trainer.fit(module, datamodule, ckpt_path=start, weights_only=True)
        summary = summarise(conf, spec, corpus, trainer, module, monitor)
        if trainer.is_global_zero:
            folder.write_summary(summary)
        tracker.summary(summary)
        upload = conf.wandb.log_checkpoint
        tracker.artifact(f"checkpoint-{folder.name}", "model", saved(folder)[-1:], upload)
    return summary


def build_trainer(
    conf: TrainConf, loggers: list[Logger], callbacks: list[lightning.Callback]
) -> lightning.Trainer:
    """Lightning's Trainer with our own checkpoints, progress and endless single epoch."""
    accumulate = conf.trainer.accumulate_grad_batches
    val_every = conf.training.val_every
    return lightning.Trainer(
        max_steps=conf.trainer.max_steps,
        max_epochs=-1,
        accelerator=conf.trainer.accelerator,
        devices=conf.trainer.devices,
        strategy=conf.trainer.strategy,
        precision=conf.trainer.precision,  # type: ignore[arg-type]
        accumulate_grad_batches=accumulate,
        gradient_clip_val=conf.trainer.gradient_clip_val,
        val_check_interval=val_every * accumulate if val_every else 1.0,
        limit_val_batches=1.0 if val_every else 0,
        check_val_every_n_epoch=None if val_every else 1,
        num_sanity_val_steps=0,
        logger=loggers,
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO()],
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def start_tracker(conf: TrainConf, spec: ModelSpec, folder: RunFolder) -> Tracker:
    """The wandb run of this folder, continued if it exists."""
    return Tracker(
        conf.wandb,
        folder.name,
        group=conf.group,
        job_type="train",
        identity=folder.path / "wandb" / f"{folder.name}.id",
        records=folder.path.parent if conf.group else folder.path,
        # Dotted keys, as in a wandb sweep, whose `model=NAME` would replace a nested `model`.
        config=flatten(describe(conf, spec)),
        axes=TRAIN_AXES,
    )


def summarise(
    conf: TrainConf,
    spec: ModelSpec,
    corpus: Corpus,
    trainer: lightning.Trainer,
    module: LanguageModel,
    monitor: Monitor,
) -> dict[str, Any]:
    """What is worth remembering of a finished run: the rows of the report's first table."""
    model: Any = module.model
    loss = full_validation(model, corpus, conf.data.length, conf.data.batch_size)
    steps = trainer.global_step
    micro_steps = steps * conf.trainer.accumulate_grad_batches
    return {
        "name": conf.name,
        "contestant": spec.name,
        "size": spec.size,
        "config": dict(spec.config),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "steps": steps,
        "tokens": micro_steps * conf.data.batch_size * conf.data.length,
        "forward_flops": micro_steps * model.flops(conf.data.batch_size, conf.data.length),
        "val_loss": loss,
        "val_bits_per_byte": loss / math.log(2) * corpus.meta.val_tokens_per_byte,
        "unigram_entropy": corpus.meta.unigram_entropy,
        "gzip_bits_per_byte": corpus.meta.gzip_bits_per_byte,
        "xz_bits_per_byte": corpus.meta.xz_bits_per_byte,
        "order_hash": Batches(corpus, conf.data, conf.seed).index.order_hash(micro_steps),
        "data_fingerprint": corpus.fingerprint,
        "tokens_per_second": monitor.throughput.tokens_per_second,
        "train_seconds": monitor.throughput.seconds,
        "precision": conf.trainer.precision,
        "backends": model.backends(),
        "peak_bytes": peak_memory(module.device),
    }


class quiet(warnings.catch_warnings):
    """Silence advice of Lightning's that does not apply here; errors still come through."""

    def __enter__(self) -> None:
        super().__enter__()
        for name in ("lightning.pytorch", "lightning.fabric"):
            logging.getLogger(name).setLevel(logging.WARNING)
        for pattern in (
            ".*does not have many workers.*",
            ".*isinstance.treespec.*",
            ".*litlogger.*",
        ):
            warnings.filterwarnings("ignore", pattern)
