"""One training from its configuration to its summary: the order in which things happen."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import torch
import yaml
from lightning.pytorch.loggers.logger import Logger

from conf.schema import TrainConf
from core.errors import UserError
from core.files import replacing, write_text
from core.launcher import detect_launcher, processes_of
from core.precision import AUTO, fp32_products
from core.stop_signals import STOPPED, Preempted, Signals, requeue
from core.units import bits_per_byte
from core.writable import check_writable
from data.mixed_order import MixedOrder
from data.mixture import (
    Data,
    Heldout,
    Mixture,
    Right,
    by_name,
    heldout,
    mean_loss,
    measured_on,
    open_data,
    order_of,
    own_heldout,
    tell_of_parts,
)
from data.order import Order
from data.parts import NO_LOSS
from data.tasks.task_data import TaskData
from models.contract import Model, makes_rows
from models.layers.compiled import compile_blocks, in_use
from models.long_context.sequence_parallel import sequence_parallel
from models.meta import build_meta
from models.registry import ModelSpec, build, nature
from models.tuning import spared_flops, tune
from tracking.configuration import flatten, setting_of, today
from tracking.lightning_loggers import JsonlLogger, TrackingLogger
from tracking.wandb_run import Tracker, train_axes
from training.checkpoints import frozen
from training.checkpoints.callback import Checkpointer
from training.checkpoints.find import read, read_whole, saved, weights_of
from training.checkpoints.initial_weights import (
    Initial,
    averages_in_words,
    check_early,
    initial_weights,
    resume_of,
)
from training.checkpoints.starting_point import (
    Start,
    begin,
    check_branch,
    choose,
    count_batches,
    goes_on,
    is_finished,
)
from training.distributed.local_processes import (
    ExternalEnvironment,
    RankInfo,
    single_rank,
    spawn_ranks,
)
from training.distributed.rendezvous import Leader, follow_rank_zero
from training.distributed.strategies import (
    SHARDED,
    arithmetic_of,
    compiler_of,
    on_gpu,
    precision_of,
    reads_shares,
)
from training.failures.explain import explained, let_go
from training.loop.datamodule import Tokens
from training.loop.early_end import EarlyEnd
from training.loop.ema import WeightAverage
from training.loop.evaluate import final_validation, full_answers, judged
from training.loop.module import LanguageModel
from training.loop.monitor import Monitor, peak_memory
from training.loop.nan_guard import NanGuard
from training.loop.objective import SequenceMode
from training.loop.plugins import build_callbacks, build_loggers, told
from training.loop.profile import ProfileSteps
from training.loop.quiet_lightning import quiet
from training.loop.samples import Sampler
from training.loop.schedules import lr_factor, only_rises
from training.loop.trainer import build_trainer
from training.run_folder.begun import Begun
from training.run_folder.digest import digest
from training.run_folder.folder import RunFolder
from training.run_folder.identity import (
    TOKENIZER,
    check_checkpoint,
    check_continues,
    check_measured,
    check_same_run,
    deciding,
    describe,
    effective,
    options_of,
    recorded_precision,
)
from training.run_folder.ledger import Ledger
from training.run_folder.lock import owned

log = logging.getLogger("crossover")

Gather = Callable[..., AbstractContextManager[RankInfo]]
"""Brings the ranks of a run together: `gather(follow, *args)` has every other rank call
`follow(rank, *args)`, and yields rank 0's own place."""


def train(conf: TrainConf, spec: ModelSpec, folder: RunFolder) -> dict[str, Any] | None:
    """Train, continue or find finished the run in `folder`, and return its summary.

    In the further processes of a launcher it is None: they do what rank 0 says. The vocabulary
    size in `spec` is replaced by the corpus's own. Raises `UserError` for anything the user can
    mend, `Preempted` when asked to stop; whatever had been saved before stays.
    """
    conf = replace(conf, resume=resume_of(conf, folder))
    trainer = conf.trainer
    if trainer.precision == AUTO:
        precision = recorded_precision(folder, conf.resume) or arithmetic_of(trainer)
        conf = replace(conf, trainer=replace(trainer, precision=precision))
    place = detect_launcher()
    if place is None:
        devices, strategy = conf.trainer.devices, conf.trainer.strategy
        is_alone = devices == 1 and strategy != "auto"
        gather: Gather = single_rank if is_alone else partial(spawn_ranks, devices)
        return Run(conf, spec, folder).execute(gather)
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
        return Run(conf, spec, folder).execute(leader.spawn_ranks)


class Fitted(NamedTuple):
    """What a finished training leaves in the memory of a rank."""

    trainer: lightning.Trainer
    module: LanguageModel
    monitor: Monitor
    guard: NanGuard
    saver: Checkpointer
    early: EarlyEnd | None
    """What may have ended it before its last step."""
    average: WeightAverage | None


@dataclass
class Run:
    """One training, as one of its ranks sees it; its methods stand in the order of their calls.

    Rank 0 alone decides and writes files; the other ranks only `fit`.
    """

    conf: TrainConf
    spec: ModelSpec
    folder: RunFolder
    rank: RankInfo = field(default_factory=RankInfo)
    initial: Initial | None = field(default=None, init=False)
    """What rank 0 has read of `from=`, until the model has it."""

    @functools.cached_property
    def corpus(self) -> Data:
        """The tokens; the first use prepares them, which may take minutes."""
        return open_data(self.conf.data)

    @functools.cached_property
    def order(self) -> Order:
        """The order in which the tokens are read."""
        accumulate = self.conf.trainer.accumulate_grad_batches
        return order_of(self.corpus, self.conf.data, self.conf.seed, accumulate)

    @functools.cached_property
    def texts(self) -> tuple[Heldout, ...]:
        """What validates, prepared likewise."""
        return heldout(self.conf.data, self.corpus)

    @property
    def measured(self) -> str | None:
        """The fingerprint of the text that the validation loss is of, if it is not held out."""
        is_own = not self.texts or own_heldout(self.corpus)
        return None if is_own else self.texts[0].corpus.fingerprint

    def execute(self, gather: Gather) -> dict[str, Any]:
        """Do as rank 0 what is left to do of the run, if anything, and return its summary."""
        conf, folder = self.conf, self.folder
        try:
            with Signals() as signals:
                if conf.resume == "never" and folder.path.exists() and not self._was_interrupted():
                    _ = self.spec, self.texts, self.order  # what is refused moves no run aside
                    with owned(folder):
                        # Another process that began at the same time may have done so already.
                        if any(path != folder.lock for path in folder.path.iterdir()):
                            log.warning("%s existed: it is now %s", folder.path, folder.set_aside())
                check_same_run(folder, describe(conf, self.spec))
                finished = folder.summary()
                if finished is not None and is_finished(
                    folder, conf.trainer.max_steps, conf.resume, conf.runs_dir
                ):
                    early = finished.get("ended_early")
                    log.warning(
                        "%s is finished (%d steps%s): nothing to do",
                        folder.path,
                        finished["steps"],
                        f"; {early}" if early else "",
                    )
                    return finished
                check_writable(folder.path, hint="choose another runs_dir")
                with owned(folder), explained(conf, self.spec, folder):
                    return self._resume_fit_summarise(signals, gather)
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
                stop.requeue = False  # whoever stops with it need not
            raise
        except BaseException as error:
            let_go(error)  # which could not empty this frame: it must not hold what was trained
            raise

    def _was_interrupted(self) -> bool:
        """Whether this very command has begun what lies there, and could not finish it."""
        try:
            check_same_run(self.folder, describe(self.conf, self.spec))
        except UserError:
            return False
        return goes_on(self.folder)

    def _resume_fit_summarise(self, signals: Signals, gather: Gather) -> dict[str, Any]:
        conf, folder = self.conf, self.folder
        start, metrics = self.resume()
        with self.tracker() as tracker:
            with gather(_fit_as_other_rank, self.conf, self.spec, self.folder, start.path) as rank:
                self.rank = rank
                step = start.content["global_step"] if start.content else 0
                others = build_loggers(conf.loggers, folder.path, folder.metrics, step)
                fitted = self.fit(start, signals, [metrics, TrackingLogger(tracker), *others])
            summary = self.summarise(fitted)
            if summary["ended_early"]:
                log.warning("%s: ended early: %s", self.folder.path, summary["ended_early"])
            tracker.summary(summary)
            newest, upload = saved(self.folder)[-1:], self.conf.wandb.log_checkpoint
            # Another run of this name, in another group, has another id.
            tracker.artifact(f"checkpoint-{tracker.version}", "model", newest, upload)
        return summary

    def resume(self) -> tuple[Start, JsonlLogger]:
        """Prepare corpus and folder, and choose the checkpoint to start from, if there is one.

        Writes what the folder says of the run, and cuts its metrics after that checkpoint's step.
        Raises `UserError` if the checkpoint cannot be continued from.
        """
        conf, folder = self.conf, self.folder
        folder.sweep()
        if conf.init_from and not saved(folder) and Begun.read(folder) is None:
            check_early(conf)
        # Whatever cannot be read is refused here, before anything is written of the run.
        vocab_size, _ = self.corpus.vocab_size, self.texts
        rows = conf.trainer.max_steps * conf.trainer.accumulate_grad_batches * conf.data.batch_size
        tell_of_parts(self.order, rows, conf.data.mix)
        self.spec = replace(self.spec, config={**self.spec.config, "vocab_size": vocab_size})
        folder.check()

        def restorable(path: Path, branch: bool) -> dict[str, Any]:
            precision = None if branch else precision_of(conf.trainer)
            return read_whole(path, self.spec, precision, reads_shares(conf.trainer))

        start, step = choose(conf.resume, folder, conf.runs_dir, restorable), 0
        if start.path is None and conf.init_from:
            self._take_over()
        if start.path is not None and start.content is not None:
            tokenizer = self.corpus.tokenizer.fingerprint if conf.init_from else None
            branch = start.parent is not None
            step = check_checkpoint(start.path, start.content, self.identity, branch, tokenizer)
            if start.parent is None:
                begun = Begun.read(folder)
                parent = asdict(begun.parent) if begun and begun.parent else None
                check_continues(start.path, start.content, self.decided_by, parent)
                check_measured(start.path, start.content, self.measured)
            if step > conf.trainer.max_steps or (step == conf.trainer.max_steps and start.parent):
                raise UserError(
                    f"checkpoint {start.path} is of step {step}, and trainer.max_steps="
                    f"{conf.trainer.max_steps} is not above it: nothing is left to train. "
                    f"Raise trainer.max_steps above {step}"
                )  # while a run killed between its last save and its summary may go on
            if start.parent is not None:
                check_branch(start.path, start.content, conf)
            frozen.bring(start.path, start.content, folder)
            if start.parent is not None:
                start = replace(start, parent=replace(start.parent, step=step))
        begin(start, conf.resume, folder)
        write_text(folder.config, yaml.safe_dump(describe(conf, self.spec), sort_keys=False))
        with replacing(folder.tokenizer) as aside:
            self.corpus.tokenizer.save(aside)
        metrics = JsonlLogger(folder.metrics)
        written = start.content["crossover"].get("rows") if start.content else None
        metrics.rewind(step, None if start.parent else written)
        if start.parent is not None:
            averages = averages_in_words(start.content, conf.optim.ema)
            log.warning(
                "%s: a branch of %s from step %d%s", folder.path, start.path, step, averages
            )
        elif step:
            log.warning("%s: continuing from step %d", folder.path, step)
        if step < conf.trainer.max_steps and only_rises(conf.trainer.max_steps, conf.optim):
            log.warning(
                "optim.warmup_steps=%d is not below trainer.max_steps=%d: "
                "the learning rate only rises",
                conf.optim.warmup_steps,
                conf.trainer.max_steps,
            )
        if not self.texts:
            log.warning("%s: no validation loss: %s", folder.path, NO_LOSS)
        if conf.trainer.precision == "bf16-true":
            log.warning(
                "trainer.precision=bf16-true keeps weights and moments in bf16: an update below "
                "1/256 of a weight is lost. bf16-mixed computes as fast and loses none"
            )
        return start, metrics

    def _take_over(self) -> None:
        """Choose and check the weights that this training begins with, and write down which."""
        begun = Begun.read(self.folder)
        initial = initial_weights(
            self.conf, self.spec, self.corpus, begun.parent if begun else None
        )
        if frozen.tuning_of(self.conf.tune) is not None:
            frozen.keep(initial.weights, self.spec, self.folder)
        Begun(self.conf.resume, initial.parent).write(self.folder)
        self.initial = initial
        log.warning(
            "%s: begins with the %s of %s%s",
            self.folder.path,
            initial.parent.taken,
            initial.parent.path,
            initial.left_out,
        )

    @property
    def identity(self) -> dict[str, Any]:
        """What whoever continues from a checkpoint of this run must share."""
        return {"model": asdict(self.spec), "data": self.corpus.fingerprint}

    @property
    def decided_by(self) -> dict[str, Any]:
        """What a run that continues by itself must share."""
        described = describe(self.conf, self.spec)
        return deciding(described) | {TOKENIZER: self.corpus.tokenizer.fingerprint}

    def tracker(self) -> Tracker:
        """The wandb run of this folder, continued if it exists."""
        conf, folder = self.conf, self.folder
        begun = Begun.read(folder)
        parent = {"parent": asdict(begun.parent)} if begun and begun.parent else {}
        described = flatten(describe(conf, self.spec))
        return Tracker(
            conf.wandb,
            folder.name,
            group=conf.group,
            job_type="train",
            identity=folder.path / "wandb" / f"{folder.name}.id",
            records=folder.path.parent if conf.group else folder.path,
            # Dotted keys, as in a wandb sweep, whose `model=NAME` would replace a nested `model`.
            config=described | {"setting": setting_of(described)} | flatten(parent),
            axes=train_axes(conf.wandb.over),
        )

    def fit(self, start: Start, signals: Signals, loggers: Sequence[Logger] = ()) -> Fitted:
        """Train this rank's share, from where `start` stands to the last step."""
        conf, folder = self.conf, self.folder
        if not self.texts:
            conf = replace(conf, trainer=replace(conf.trainer, val_check_interval=0))
        # FLOPs of the forward passes of one optimizer step, over all ranks.
        meta, accumulate = build_meta(self.spec), conf.trainer.accumulate_grad_batches
        tuning, tuned, spared = frozen.tuning_of(conf.tune), None, 0
        if tuning is not None:
            with torch.device("meta"):
                tune(meta, tuning)
            spared = spared_flops(meta, accumulate * conf.data.batch_size * conf.data.length)
        flops = int(accumulate * meta.flops(conf.data.batch_size, conf.data.length))
        begun = Begun.read(folder)
        parent = begun.parent if begun else None
        ledger, content = (
            Ledger.of(conf, self.corpus.fingerprint, start.content, start.path, flops),
            start.content,
        )
        if content is not None:
            count_batches(content, accumulate)
        lightning.seed_everything(conf.seed, verbose=False)
        model: Any = build(self.spec)
        if self.spec.config.get("dropout"):  # ranks read other rows, and drop other parts of them
            torch.manual_seed(conf.seed + self.rank.rank)
        before = None  # what the steps of another training took
        if tuning is not None:
            frozen.prepare(folder, model, tuning, conf.seed)
            tuned = frozen.reference(folder, tuning)
        if content is None and parent is not None:
            initial = self.initial or initial_weights(conf, self.spec, self.corpus, parent)
            self.initial = None  # a large file is not kept beside the model
            initial.put(model) if tuned is None else initial.put_state(model)
            ledger, content = initial.ledger(ledger), initial.with_optimizer()
            before = initial.spent()
            del initial
        ledger.leave(asdict(parent) if parent else None)
        settings = effective(describe(self.conf, self.spec), self.corpus.fingerprint)
        if start.content is None:
            ledger.continue_with(settings, 0)
        else:
            theirs = start.content["crossover"]
            recorded = today(theirs.get("run", {})) | options_of(theirs["identity"]["model"])
            ledger.continue_with(settings, start.content["global_step"], recorded)
        saver = Checkpointer(
            folder, conf, self.identity, self.decided_by, signals, self.rank, content, self.measured
        )
        saver.finish_tidying()
        fp32_products(conf.trainer.precision, on_gpu(conf.trainer))
        model.gradient_checkpointing = conf.training.gradient_checkpointing
        compile_blocks(model, compiler_of(conf.trainer))
        order = self.order
        guard = NanGuard(conf.training.on_nan, order, saver.last_good)
        masked = any(each.masked for each in (self.corpus, *(text.corpus for text in self.texts)))
        mode = SequenceMode.of(conf, self.corpus.tokenizer, masked)
        shares = [text.share for text in self.texts]
        module = LanguageModel(
            model,
            conf.optim,
            conf.trainer.max_steps,
            mode,
            ledger,
            shares,
            tuned,
            isinstance(self.corpus, TaskData) and not makes_rows(model),
            self._judge(model) if makes_rows(model) else None,
        )
        split = conf.trainer.sequence_parallel
        datamodule = Tokens(
            self.corpus, conf.data, conf.seed, conf.training.val_windows, split, self.texts
        )
        per_byte = measured_on(self.corpus, self.texts).val_tokens_per_byte
        monitor = Monitor(conf, per_byte, ledger, flops, spared)
        if order.growth is not None:
            monitor.grow(order.growth, meta.flops)
        parts_of = order.tokens_of if isinstance(order, MixedOrder) else None
        monitor.tell_apart(self.texts, parts_of)
        if before is not None:
            monitor.go_on_after(before)
        early = EarlyEnd.of(conf, folder.path)
        average = WeightAverage.of(conf.optim, model)
        asked: list[lightning.Callback] = [] if early is None else [early]
        if conf.training.sample_every:
            path = folder.path / "samples.jsonl"
            asked.append(Sampler(conf, self.corpus.tokenizer, path, monitor.pause, model))
        asked += build_callbacks(conf.callbacks, self.rank.rank)
        profile = None
        if conf.training.profile:
            profile = ProfileSteps(conf.training.profile, folder.path)
        with quiet():
            trainer = build_trainer(
                conf,
                self.rank,
                loggers,
                [guard, *filter(None, [average]), monitor, *asked, saver, *filter(None, [profile])],
                [saver.io, ExternalEnvironment(self.rank)],
                profile.profiler if profile else None,
            )
            try:
                # With `split` all ranks share every sequence. Their exchanges have a group of their
                # own: the order of DDP's is not that of the model.
                exchange = (
                    sequence_parallel(torch.distributed.new_group()) if split else nullcontext()
                )
                with exchange, told():
                    # The path only says that there is a start: `saver.io` has its content.
                    trainer.fit(module, datamodule, ckpt_path="start" if saver.resumes else None)
            finally:
                saver.close()
        return Fitted(trainer, module, monitor, guard, saver, early, average)

    def _judge(self, model: Model) -> Callable[[], list[Right]]:
        """What `LanguageModel` asks about rows that the model makes, for each text."""
        count, batch = self.conf.training.val_windows, self.conf.data.batch_size

        def judge() -> list[Right]:
            tasks = [text.corpus for text in self.texts if isinstance(text.corpus, TaskData)]
            return [judged(model, each, min(count, each.heldout), batch) for each in tasks]

        return judge

    def summarise(self, fitted: Fitted) -> dict[str, Any]:
        """Validate on every validation token, and write what is worth remembering of the run."""
        conf, corpus, spec = self.conf, self.corpus, self.spec
        trainer, module, monitor, guard, _, early, average = fitted
        is_short = trainer.global_step < conf.trainer.max_steps
        stopped = f"a callback stopped it at step {trainer.global_step}" if is_short else None
        newest = saved(self.folder)[-1]
        content = read(newest, conf.checkpoint.sharded)
        model: Any = module.model
        compiled = in_use(model)
        if conf.trainer.strategy in SHARDED:  # this rank trained only a share of the model
            weights = weights_of(newest, content)
            model = build(spec)
            model.load_state_dict(weights)
            model = module.model = model.to(module.device)
        model.eval()
        losses = final_validation(conf, self.texts, model, module.sequence_mode)
        loss = mean_loss(losses, module.shares) if self.texts else None
        if makes_rows(model):  # that of a game is no measure of what it makes
            loss = None
        text = measured_on(corpus, self.texts)
        per_byte = text.val_tokens_per_byte
        right = [
            full_answers(model, each.corpus, conf.data.batch_size, module.sequence_mode, each_loss)
            for each, each_loss in zip(self.texts, losses, strict=True)
        ]
        averaged = None
        if average is not None and self.texts:
            every = final_validation(conf, self.texts, average.model, module.sequence_mode)
            averaged = mean_loss(every, module.shares)
        steps, ledger = trainer.global_step, monitor.ledger
        order_hash = None
        if ledger.order is not None:
            accumulate = conf.trainer.accumulate_grad_batches
            order_hash = self.order.order_hash(steps * accumulate)
        return self.folder.write_summary(
            {
                "name": conf.name,
                "model": spec.name,
                "size": spec.size,
                "target": spec.target,
                "config": dict(spec.config),
                **asdict(nature(spec.target, spec.config)),
                "parameters": sum(parameter.numel() for parameter in model.parameters()),
                "trained_parameters": sum(
                    parameter.numel() for parameter in model.parameters() if parameter.requires_grad
                ),
                "steps": steps,
                "ended_early": (early.reason if early else None) or stopped,
                "pruned": early is not None and early.pruned,
                "skipped_steps": guard.skipped,
                "overflowed_steps": guard.overflowed,
                "parent": ledger.parent,
                "schedule_changes": ledger.schedule_changes,
                "changes": ledger.changes,
                "tokens": ledger.tokens,
                "trained_tokens": ledger.trained_tokens,
                "forward_flops": ledger.forward_flops,
                "own_forward_flops": ledger.own_flops,
                "spared_flops": ledger.spared_flops,
                "last_rate": lr_factor(steps - 1, conf.trainer.max_steps, conf.optim),
                "val_loss": loss,
                "val_ema_loss": averaged,
                "val_bits_per_byte": (
                    None if loss is None or per_byte is None else bits_per_byte(loss, per_byte)
                ),
                **(right[0].named("val_") if right else {}),
                "validation": by_name(self.texts, losses, right),
                "parts": corpus.read(ledger.parts) if isinstance(corpus, Mixture) else {},
                "unigram_entropy": text.unigram_entropy,
                "gzip_bits_per_byte": text.gzip_bits_per_byte,
                "xz_bits_per_byte": text.xz_bits_per_byte,
                "order_hash": order_hash,
                "data_fingerprint": corpus.fingerprint,
                "tokens_per_second": monitor.throughput.tokens_per_second,
                "train_seconds": monitor.throughput.all_seconds,
                "precision": conf.trainer.precision,
                "packing": conf.data.packing,
                "segment": conf.training.segment,
                "bptt": conf.training.bptt,
                "backends": model.backends()
                | fp32_products(conf.trainer.precision, on_gpu(conf.trainer))
                | compiled,
                "peak_bytes": peak_memory(module.device),
                "digest": digest(content),
            }
        )


def _fit_as_other_rank(
    rank: RankInfo, conf: TrainConf, spec: ModelSpec, folder: RunFolder, path: Path | None
) -> None:
    """Train as any further rank, from the checkpoint at `path`; everything here must pickle."""
    with Signals(quiet=True) as signals, explained(conf, spec, folder):
        content = None if path is None else read(path, reads_shares(conf.trainer))
        start = Start(path, content)
        Run(conf, spec, folder, rank).fit(start, signals)
