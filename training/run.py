"""One training run from its configuration to its summary: the order in which things happen."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch
import yaml
from lightning.pytorch.loggers.logger import Logger

from conf.schema import TrainConf
from core.errors import UserError
from core.files import replacing, write_text
from core.launcher import detect_launcher, processes_of
from core.stop_signals import STOPPED, Preempted, Signals, requeue
from core.writable import check_writable
from data.batches import Batches
from data.store import Corpus, prepare
from models.contract import Model
from models.long_context.sequence_parallel import sequence_parallel
from models.meta import build_meta
from models.registry import ModelSpec, build, nature
from tracking.lightning_loggers import JsonlLogger, TrackingLogger
from tracking.progress import Windows
from tracking.wandb_run import TRAIN_AXES, Tracker
from training.checkpoints.callback import Checkpointer
from training.checkpoints.find import read, read_whole, saved
from training.checkpoints.starting_point import Begun, Start, begin, choose, goes_on, is_finished
from training.distributed.local_processes import (
    ExternalEnvironment,
    RankInfo,
    single_rank,
    spawn_ranks,
)
from training.distributed.rendezvous import Leader, follow_rank_zero
from training.distributed.strategies import SHARDED, build_strategy, precision_of
from training.failures.explain import explained, let_go
from training.loop.datamodule import Tokens
from training.loop.evaluate import full_validation, number_of_windows
from training.loop.module import LanguageModel
from training.loop.monitor import Monitor, peak_memory
from training.loop.nan_guard import NanGuard
from training.loop.objective import SequenceMode
from training.loop.optim import only_rises
from training.loop.quiet_lightning import quiet
from training.run_folder.digest import digest
from training.run_folder.folder import RunFolder
from training.run_folder.identity import (
    TOKENIZER,
    check_checkpoint,
    check_continues,
    check_same_run,
    deciding,
    describe,
    flatten,
)
from training.run_folder.ledger import Ledger
from training.run_folder.lock import owned

log = logging.getLogger("crossover")

Gather = Callable[..., AbstractContextManager[RankInfo]]


def train(conf: TrainConf, spec: ModelSpec, folder: RunFolder) -> dict[str, Any] | None:
    """Train, continue or find finished the run in `folder`; returns its summary.

    In the further processes of a launcher it is None: they do what process 0 says. The vocabulary
    size in `spec` is replaced by the corpus's own. Raises `UserError` for anything the user can
    mend, `Preempted` when asked to stop; whatever had been saved before stays.
    """
    place = detect_launcher()
    if place is None:
        devices, strategy = conf.trainer.devices, conf.trainer.strategy
        is_alone = devices == 1 and strategy != "auto"
        return _resume_or_finish(
            conf, spec, folder, single_rank if is_alone else partial(spawn_ranks, devices)
        )
    if place.rank:
        follow_rank_zero(place)
        return None
    with Leader(place) as leader:
        world = processes_of(conf.trainer.devices)
        if conf.data.batch_size % world and not conf.trainer.sequence_parallel:
            raise UserError(
                f"data.batch_size={conf.data.batch_size} cannot be shared by {world} processes: "
                "choose a multiple"
            )
        conf.trainer.devices = place.local_world
        return _resume_or_finish(conf, spec, folder, leader.spawn_ranks)


def _resume_or_finish(
    conf: TrainConf, spec: ModelSpec, folder: RunFolder, gather: Gather
) -> dict[str, Any]:
    """Process 0: whether there is anything to do. `gather` brings the others together."""
    try:
        with Signals() as signals:
            if conf.resume == "never" and not _was_interrupted(conf, spec, folder):
                _set_aside(folder)
            check_same_run(folder, describe(conf, spec))
            finished = folder.summary()
            if finished is not None and is_finished(
                folder, conf.trainer.max_steps, conf.resume, conf.runs_dir
            ):
                log.warning(
                    "%s is finished (%d steps): nothing to do", folder.path, finished["steps"]
                )
                return finished
            check_writable(folder.path, hint="choose another runs_dir")
            with owned(folder), explained(conf, spec, folder):
                return _run_rank_zero(conf, spec, folder, signals, gather)
    except Preempted as stop:
        saved_at = "" if stop.step is None else f", saved at step {stop.step}"
        log.warning(
            "%s: stopped%s (exit status %d); run the same command again to continue",
            folder.path,
            saved_at,
            STOPPED,
        )
        if stop.requeue:
            requeue()
        raise
    except BaseException as error:
        let_go(error)
        raise


def _was_interrupted(conf: TrainConf, spec: ModelSpec, folder: RunFolder) -> bool:
    """Whether this very command has begun what lies there, and could not finish it."""
    try:
        check_same_run(folder, describe(conf, spec))
    except UserError:
        return False
    return goes_on(folder)


def _set_aside(folder: RunFolder) -> None:
    if folder.path.exists():
        with owned(folder):
            log.warning("%s existed: it is now %s", folder.path, folder.set_aside())


def _run_rank_zero(
    conf: TrainConf, spec: ModelSpec, folder: RunFolder, signals: Signals, gather: Gather
) -> dict[str, Any]:
    """The run as its first process sees it: the one that decides and writes."""
    folder.sweep()
    corpus = prepare(conf.data)
    spec = replace(spec, config={**spec.config, "vocab_size": corpus.vocab_size})
    folder.check()

    def restorable(path: Path, branch: bool) -> dict[str, Any]:
        return read_whole(path, spec, None if branch else precision_of(conf.trainer))

    start = choose(conf.resume, folder, conf.runs_dir, restorable)
    content = start.content
    identity = {"model": asdict(spec), "data": corpus.fingerprint}
    decided_by = deciding(describe(conf, spec)) | {TOKENIZER: corpus.tokenizer.fingerprint}
    step = 0
    if start.path is not None and content is not None:
        step = check_checkpoint(start.path, content, identity)
        if start.parent is None:
            begun = Begun.read(folder)
            parent = asdict(begun.parent) if begun and begun.parent else None
            check_continues(start.path, content, decided_by, parent)
        start = _check_steps(conf, start, step)
    begin(start, conf.resume, folder)
    begun = Begun.read(folder)

    write_text(folder.config, yaml.safe_dump(describe(conf, spec), sort_keys=False))
    with replacing(folder.tokenizer) as aside:
        corpus.tokenizer.save(aside)
    metrics = JsonlLogger(folder.metrics)
    metrics.rewind(step, None if start.parent or not content else content["crossover"].get("rows"))
    if start.parent is not None:
        log.warning("%s: a branch of %s from step %d", folder.path, start.path, step)
    elif step:
        log.warning("%s: continuing from step %d", folder.path, step)
    if step < conf.trainer.max_steps and only_rises(conf.trainer.max_steps, conf.optim):
        log.warning(
            "optim.warmup_steps=%d is not below trainer.max_steps=%d: the learning rate only rises",
            conf.optim.warmup_steps,
            conf.trainer.max_steps,
        )
    path = start.path
    with start_tracker(conf, spec, folder) as tracker:
        with gather(_run_other_rank, conf, spec, folder, path) as member:
            saver = Checkpointer(folder, conf, identity, decided_by, signals, member, content)
            ledger = Ledger.of(conf, content, path, step_flops(conf, spec))
            ledger.parent = asdict(begun.parent) if begun and begun.parent else None
            loggers = [metrics, TrackingLogger(tracker)]
            trainer, module, monitor = fit(conf, spec, corpus, saver, ledger, loggers)
        content = read(saved(folder)[-1])
        if conf.trainer.strategy in SHARDED:
            module.model = whole(spec, content).to(module.device)
        summary = summarise(conf, spec, corpus, trainer, module, monitor)
        summary["digest"] = digest(content)
        summary = folder.write_summary(summary)
        tracker.summary(summary)
        upload = conf.wandb.log_checkpoint
        tracker.artifact(f"checkpoint-{folder.name}", "model", saved(folder)[-1:], upload)
    return summary


def _run_other_rank(
    member: RankInfo, conf: TrainConf, spec: ModelSpec, folder: RunFolder, path: Path | None
) -> None:
    """The run as any further process sees it."""
    with Signals(quiet=True) as signals, explained(conf, spec, folder):
        content = None if path is None else read(path)
        saver = Checkpointer(folder, conf, {}, {}, signals, member, content)
        ledger = Ledger.of(conf, content, path, step_flops(conf, spec))
        fit(conf, spec, prepare(conf.data), saver, ledger, [])


def _check_steps(conf: TrainConf, start: Start, step: int) -> Start:
    """`start`, whose checkpoint is of this step, if there is something left to train.

    Raises `UserError` otherwise. A run killed between its last save and its summary may go on.
    """
    last = conf.trainer.max_steps
    if step > last or (step == last and start.parent is not None):
        raise UserError(
            f"checkpoint {start.path} is of step {step}, and trainer.max_steps={last} is not "
            f"above it: nothing is left to train. Raise trainer.max_steps above {step}"
        )
    if start.parent is None:
        return start
    return replace(start, parent=replace(start.parent, step=step))


def step_flops(conf: TrainConf, spec: ModelSpec) -> int:
    """FLOPs of the forward passes of one optimizer step, over all processes."""
    model = build_meta(spec)
    per_pass = model.flops(conf.data.batch_size, conf.data.length)
    return int(conf.trainer.accumulate_grad_batches * per_pass)


def whole(spec: ModelSpec, content: dict[str, Any]) -> Any:
    """The model of a checkpoint, when this process trained only a share of it."""
    model: Any = build(spec)
    prefix = "model."
    model.load_state_dict({k.removeprefix(prefix): v for k, v in content["state_dict"].items()})
    return model


def fit(
    conf: TrainConf,
    spec: ModelSpec,
    corpus: Corpus,
    saver: Checkpointer,
    ledger: Ledger,
    loggers: Sequence[Logger],
) -> tuple[lightning.Trainer, LanguageModel, Monitor]:
    """This process's share of the training, from where `saver` starts to the last step."""
    lightning.seed_everything(conf.seed, verbose=False)
    model: Any = build(spec)
    model.gradient_checkpointing = conf.training.gradient_checkpointing
    index = Batches(corpus, conf.data, conf.seed).index
    guard = NanGuard(conf.training.on_nan, index, saver.last_good)
    reading = SequenceMode.of(conf, corpus.tokenizer)
    module = LanguageModel(model, conf.optim, conf.trainer.max_steps, reading, guard, ledger)
    split = conf.trainer.sequence_parallel
    datamodule = Tokens(corpus, conf.data, conf.seed, conf.training.val_windows, whole=split)
    monitor = Monitor(conf, corpus.meta.val_tokens_per_byte, ledger, step_flops(conf, spec))
    with quiet():
        member = saver.member
        trainer = build_trainer(
            conf, member, loggers, [monitor, saver], [saver.io, ExternalEnvironment(member)]
        )
        try:
            with spans_of_sequences() if split else nullcontext():
                # The path only says that there is a start: `saver.io` has its content.
                trainer.fit(module, datamodule, ckpt_path="start" if saver.resumes else None)
        finally:
            saver.close()
    return trainer, module, monitor


def spans_of_sequences() -> AbstractContextManager[Any]:
    """All processes share every sequence. Their exchanges go apart from DDP's, whose order is not
    that of the model."""
    return sequence_parallel(torch.distributed.new_group())


def build_trainer(
    conf: TrainConf,
    member: RankInfo,
    loggers: Sequence[Logger],
    callbacks: list[lightning.Callback],
    plugins: list[Any],
) -> lightning.Trainer:
    """Lightning's Trainer with our own checkpoints, progress and endless single epoch."""
    accumulate = conf.trainer.accumulate_grad_batches
    val_every = conf.trainer.val_check_interval
    trainer = lightning.Trainer(
        max_steps=conf.trainer.max_steps,
        max_epochs=-1,
        accelerator=conf.trainer.accelerator,
        devices=member.local_world,
        num_nodes=member.world // member.local_world,
        strategy=build_strategy(conf),
        precision=precision_of(conf.trainer),  # type: ignore[arg-type]
        accumulate_grad_batches=accumulate,
        gradient_clip_val=conf.trainer.gradient_clip_val,
        val_check_interval=val_every * accumulate if val_every else 1.0,
        limit_val_batches=1.0 if val_every else 0,
        check_val_every_n_epoch=None if val_every else 1,
        num_sanity_val_steps=0,
        logger=loggers,
        callbacks=callbacks,
        plugins=plugins,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    # Lightning's handlers communicate between processes, and so may hang; `Signals` has its own.
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    return trainer


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


def final_validation(conf: TrainConf, corpus: Corpus, model: Model, reading: SequenceMode) -> float:
    """Loss on every validation token, nats per token. It may take longer than the training."""
    sizes = conf.data.length, conf.data.batch_size
    if not conf.trainer.enable_progress_bar:
        return full_validation(model, corpus, *sizes, reading)
    windows = number_of_windows(corpus, conf.data.length)
    with Windows(f"{conf.name}  final validation", windows) as progress:
        return full_validation(model, corpus, *sizes, reading, progress.show)


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
    loss = final_validation(conf, corpus, model, module.reading)
    steps = trainer.global_step
    ledger, index = monitor.ledger, Batches(corpus, conf.data, conf.seed).index
    return {
        "name": conf.name,
        "model": spec.name,
        "size": spec.size,
        "target": spec.target,
        "config": dict(spec.config),
        **asdict(nature(spec.target, spec.config)),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "steps": steps,
        "skipped_steps": module.guard.skipped if module.guard else 0,
        "parent": ledger.parent,
        "schedule_changes": ledger.schedule_changes,
        "tokens": ledger.tokens,
        "forward_flops": ledger.forward_flops,
        "val_loss": loss,
        "val_bits_per_byte": loss / math.log(2) * corpus.meta.val_tokens_per_byte,
        "unigram_entropy": corpus.meta.unigram_entropy,
        "gzip_bits_per_byte": corpus.meta.gzip_bits_per_byte,
        "xz_bits_per_byte": corpus.meta.xz_bits_per_byte,
        "order_hash": index.order_hash(steps * conf.trainer.accumulate_grad_batches)
        if ledger.order is not None
        else None,
        "data_fingerprint": corpus.fingerprint,
        "tokens_per_second": monitor.throughput.tokens_per_second,
        "train_seconds": monitor.throughput.all_seconds,
        "precision": conf.trainer.precision,
        "packing": conf.data.packing,
        "segment": conf.training.segment,
        "bptt": conf.training.bptt,
        "backends": model.backends(),
        "peak_bytes": peak_memory(module.device),
    }
