"""Values of a training that are fine alone and impossible together."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from conf.schema import TrainConf, TrainingConf, decay_steps
from core.errors import UserError, shown
from core.launcher import detect_launcher, processes_of
from core.units import listing
from data.growth import Growth
from data.parts import NO_LOSS, is_task, part_problems, validates, validation_confs
from data.tasks.ordering import Places
from data.tasks.task_data import TASKS, task_problems
from models.registry import ModelSpec, is_recurrent, pointing, separator
from scripts.cli.image_checks import image_training_problems
from scripts.cli.model_spec import model_spec
from scripts.cli.shared_checks import (
    build_problems,
    corpus_problems,
    device_problems,
    name_problems,
    number_of_gpus,
    on_gpu,
    size_problems,
)
from scripts.cli.tuning_checks import deep_tuning_problems, tuning_problems
from training.checkpoints.keep import Keep
from training.loop import plugins
from training.run_folder.folder import resume_target
from training.run_folder.naming import default_name

NO_HALF = "trainer.precision='16-mixed' needs a GPU; on a CPU use 'bf16-mixed'"
SPLIT = ("fsdp", "deepspeed_3")
"""Strategies with which no process has all weights."""
NO_OFFLOAD = "trainer.offload=true: with fsdp on a CPU everything lies in its memory already"


def training_problems(config: TrainConf) -> Iterator[str]:
    """What words alone decide."""
    data, trainer = config.data, config.trainer
    for key, name in (("name", config.name), ("group", config.group)):
        yield from name_problems(key, name)
    yield from corpus_problems(data)
    if not [*part_problems(data)] and not validates(data):
        yield from _without_loss(config)
    if data.corpus in TASKS and config.objective == "val/bits_per_byte":
        yield f"objective={config.objective}: data={data.corpus} has no text; use val/accuracy"
    if data.corpus not in TASKS and config.objective in ("val/accuracy", "val/exact_match"):
        yield (
            f"objective={config.objective} is that of synthetic tasks, and data={data.corpus} is "
            "none: use val/loss"
        )
    yield from size_problems(config.model)
    segment, length = config.training.segment, config.data.length
    if segment > length:
        yield f"training.segment={segment} is longer than data.length={length}: lower it, or use 0"
    if config.training.bptt == "truncated":
        if not segment:
            yield "training.bptt=truncated cuts gradients between segments: set training.segment"
        if config.trainer.precision == "16-mixed":
            yield "training.bptt=truncated cannot scale gradients in time for 16-mixed: use bf16"
    yield from _optim(config)
    yield from _keep(config)
    yield from _trunk(config)
    if config.init_from == "":
        yield "from= names nothing: leave it out, or give a run or a file of weights"
    if config.take != "auto" and not config.init_from:
        yield f"take={config.take} says how much of from= is taken over: give from= too"
    yield from tuning_problems(config)
    if config.resize_vocab and not config.init_from:
        yield "resize_vocab=true is about the weights of from=: give from= too"
    if config.training.price_per_hour is not None and config.training.currency is None:
        yield (
            f"training.price_per_hour={config.training.price_per_hour:g} has no unit: add "
            "training.currency=EUR, USD or another of its values"
        )
    if config.training.currency is not None and config.training.price_per_hour is None:
        yield f"training.currency={config.training.currency} is the unit of a price: give it too"
    if config.training.peak_flops and "mfu" not in config.training.also:
        yield (
            f"training.peak_flops={config.training.peak_flops:g} changes nothing without "
            "training.also=[mfu]"
        )
    needed = {"joules": "training.also=[joules]", "cost": "training.price_per_hour"}
    counts = {
        "joules": "joules" in config.training.also,
        "cost": config.training.price_per_hour is not None,
    }
    if not counts.get(config.wandb.over, True):
        over = config.wandb.over
        yield f"wandb.over={over}: the rows have no {over} without {needed[over]}"
    yield from _inside(config)
    if config.training.prune != "never" and not config.group:
        yield "training.prune=median compares the runs of a group: give group= too"
    yield from _processes(config)
    if trainer.precision == "16-mixed" and trainer.accelerator == "cpu":
        yield NO_HALF
    if data.tokenizer not in ("bpe", "bytes", "chars") and not Path(data.tokenizer).exists():
        yield f"data.tokenizer={data.tokenizer!r}: not bpe, bytes or chars; no such file or folder"
    if config.resume not in ("auto", "never"):
        try:
            resume_target(config.resume, config.runs_dir)
        except UserError as error:
            run_name = config.name or default_name(
                config, config.model["name"], str(config.model["size"])
            )
            folder = Path(config.runs_dir, *filter(None, [config.group]), run_name)
            if not (folder / "start.json").is_file():
                yield str(error)


def _without_loss(config: TrainConf) -> Iterator[str]:
    """What a training cannot do that has no validation loss."""
    training = config.training
    early = {
        f"training.patience={training.patience}": training.patience,
        f"training.target_loss={training.target_loss:g}": training.target_loss,
        f"training.prune={training.prune}": training.prune != "never",
    }
    for key in (key for key, asked in early.items() if asked):
        yield f"{key} looks at the validation loss, and there is none: {NO_LOSS}"


def _inside(config: TrainConf) -> Iterator[str]:
    """Whether what looks into a run, profile, samples, callbacks and loggers, can."""
    training, trainer = config.training, config.trainer
    if training.profile:
        try:
            first, last = plugins.window(training.profile)
            if last > trainer.max_steps:
                yield (
                    f"training.profile={first}:{last}: the training ends at trainer.max_steps="
                    f"{trainer.max_steps}"
                )
        except ValueError as error:
            yield f"training.profile={error}"
    if training.sample_every and (trainer.strategy in SPLIT or trainer.sequence_parallel):
        split = "trainer.sequence_parallel" if trainer.sequence_parallel else trainer.strategy
        yield f"training.sample_every needs a process with the whole model: not with {split}"
    for key in ("sample_prompt", "sample_tokens"):
        value = getattr(training, key)
        if value != getattr(TrainingConf, key) and not training.sample_every:
            yield f"training.{key}={shown(value)} changes nothing without training.sample_every"
    yield from plugins.problems("callbacks", config.callbacks)
    yield from plugins.problems("loggers", config.loggers)


def _keep(config: TrainConf) -> Iterator[str]:
    strategy = config.trainer.strategy
    if config.checkpoint.sharded and strategy != "fsdp":
        yield (
            f"checkpoint.sharded=true needs trainer.strategy=fsdp, not {strategy}: leave it out, "
            "and process 0 writes one file, which every strategy continues"
        )
    try:
        keep = Keep.parse(config.checkpoint.keep)
    except UserError as error:
        yield str(error)
        return
    if keep.best > 1 and not config.checkpoint.best:
        yield f"checkpoint.keep=best:{keep.best}: with checkpoint.best=false no best is kept"


def _optim(config: TrainConf) -> Iterator[str]:
    """Whether the optimizer runs with this strategy, and the schedule fits into the training."""
    optim, trainer = config.optim, config.trainer
    if optim.final_lr > optim.lr:
        way_out = "for a rate of 0 set optim.final_lr=0 too" if not optim.lr else "lower it"
        yield f"optim.final_lr={optim.final_lr} is above optim.lr={optim.lr}: {way_out}"
    given = f"optim.decay_steps={optim.decay_steps}"
    if optim.decay_share:
        if optim.decay_steps:
            yield f"{given} and optim.decay_share={optim.decay_share}: give one of them"
        given = f"optim.decay_share={optim.decay_share}"
    if (optim.decay_steps or optim.decay_share) and optim.schedule != "wsd":
        yield (
            f"{given} changes nothing with "
            f"optim.schedule={optim.schedule}: only optim.schedule=wsd has a decay of its own"
        )
    elif decay_steps(trainer.max_steps, optim) > max(trainer.max_steps - optim.warmup_steps, 0):
        yield (
            f"{given} does not fit between the end of the warm-up "
            f"(optim.warmup_steps={optim.warmup_steps}) and trainer.max_steps={trainer.max_steps}"
        )
    if optim.ema and (trainer.strategy not in ("auto", "ddp") or trainer.precision == "bf16-true"):
        yield (
            f"optim.ema={optim.ema} averages whole weights in fp32: not with trainer.strategy="
            f"{trainer.strategy} and trainer.precision={trainer.precision}; use ddp and bf16-mixed"
        )
    if optim.name == "muon" and trainer.strategy not in ("auto", "ddp"):
        yield (
            f"optim.name=muon needs whole matrices, which trainer.strategy={trainer.strategy} "
            "splits: use ddp, or optim.name=adamw"
        )


def _trunk(config: TrainConf) -> Iterator[str]:
    """Whether there are steps to share with the run that `trunk=` names."""
    if config.trunk is None:
        return
    key, decay = f"trunk={config.trunk}", decay_steps(config.trainer.max_steps, config.optim)
    yield from name_problems("trunk", config.trunk)
    if config.trunk == config.name:
        yield f"{key} is the name of this run: the trunk needs another one"
    if config.init_from:
        yield f"{key} and from={config.init_from}: this run begins with its trunk; give one of them"
    if config.resume not in ("auto", "never"):
        yield f"{key} and resume={config.resume}: this run begins with its trunk; give one of them"
    if config.optim.schedule != "wsd" or not 0 < decay < config.trainer.max_steps:
        yield (
            f"{key} shares the steps before the decay: give optim.schedule=wsd and "
            "optim.decay_steps or optim.decay_share, of a part of trainer.max_steps"
        )
    if detect_launcher():
        yield f"{key} trains two runs, one after the other: not under a launcher; use from= there"


def deep_training_problems(config: TrainConf) -> Iterator[str]:
    """What only the models and PyTorch decide."""
    data, trainer = config.data, config.trainer
    for key in ("callbacks", "loggers"):
        try:
            plugins.check(key, getattr(config, key))
        except UserError as error:
            yield str(error)
    yield from device_problems(trainer.accelerator)
    spec = model_spec(config.model, data.vocab_size)
    wrong = list(build_problems(spec, data.length, "data.length"))
    if is_task(data):
        for name, one in validation_confs(data).items():
            wrong += build_problems(spec, one.length, f"data.validation.{name}.length")
        wrong = list(dict.fromkeys(wrong))
    images = list(image_training_problems(config, spec))
    yield from wrong or images or deep_tuning_problems(config, spec)
    if config.training.sample_every:  # the prompt, whose tokens are not known yet, comes on top
        yield from build_problems(spec, config.training.sample_tokens, "training.sample_tokens")
    if (mark := separator(spec.target, spec.config)) is not None:
        yield from _separator(config, spec, mark)
    if config.training.segment and not is_recurrent(spec.target, spec.config):
        yield (
            f"training.segment={config.training.segment}: {config.model['name']} has no state that "
            "carries gradients; use training.gradient_checkpointing=true to save memory"
        )
    if trainer.compile not in ("auto", "none"):
        from models.layers.compiled import chosen  # which imports torch

        try:
            chosen(trainer.compile, trainer.accelerator != "cpu" and on_gpu())
        except UserError as error:
            yield f"trainer.{error}"
    if trainer.accelerator == "cpu":
        return
    if trainer.precision == "16-mixed" and not on_gpu():
        yield NO_HALF
    place, gpus = detect_launcher(), number_of_gpus()
    here = place.local_world if place else trainer.devices
    if 0 < gpus < here:
        yield f"{here} processes need a GPU each, and PyTorch sees {gpus} on this machine"
    if trainer.strategy == "fsdp" and trainer.offload and not on_gpu():
        yield NO_OFFLOAD


def _separator(config: TrainConf, spec: ModelSpec, mark: int) -> Iterator[str]:
    """Whether the rows have the separator that a model needs, which must be their last symbol, and
    the places that it writes, if it does."""
    data, name, known = config.data, config.model["name"], TASKS.get(config.data.corpus)
    if known is None or not known.has_separator or not is_task(data):
        fit = [f"data={each}" for each, kind in TASKS.items() if kind.has_separator]
        yield (
            f"model={name} reads a source, a separator and a target, and data={data.corpus} has no "
            f"separator: use {listing(fit, 'or')}"
        )
        return
    pointed = pointing(spec.target, spec.config)
    if pointed is not None and not issubclass(known, Places):
        fit = [f"data={each}" for each, kind in TASKS.items() if issubclass(kind, Places)]
        yield (
            f"model={name} writes places of its source, and what data={data.corpus} asks for is "
            f"none: use {listing(fit, 'or')}"
        )
        return
    if task_problems(data):
        return
    if pointed is not None and issubclass(known, Places):
        for key, given, right in zip(
            ("places", "item"), pointed, (known.places, known.item), strict=True
        ):
            if given != right:
                yield f"model.{key}={given}: data={data.corpus} needs model.{key}={right}"
    symbols = known(**(data.task or {})).symbols
    given = config.model.get("separator")
    if given is not None and mark != len(symbols) - 1:
        yield (
            f"model.separator={given}: that of data={data.corpus} is token {len(symbols) - 1}, the "
            "default"
        )
    if config.training.sample_every and symbols[-1] not in config.training.sample_prompt:
        yield (
            f"training.sample_prompt={shown(repr(config.training.sample_prompt), 80)} has no "
            f"{symbols[-1]!r}, after which model={name} writes"
        )


def _processes(config: TrainConf) -> Iterator[str]:
    """Whether the strategy runs here, and the processes can share its batches."""
    trainer, batch_size = config.trainer, config.data.batch_size
    try:
        world = processes_of(trainer.devices)
    except UserError as error:
        yield str(error)
        return
    if (growth := Growth.of(config.data, 1)) and not trainer.sequence_parallel:
        try:
            growth.check_shared(world)
        except UserError as error:
            yield str(error)
    if trainer.sequence_parallel:
        yield from _spans(config, world)
    elif batch_size % world:
        who = f"{world} processes" if detect_launcher() else f"trainer.devices={world}"
        yield f"data.batch_size={batch_size} cannot be shared by {who}: choose a multiple"
    zero = trainer.strategy.startswith("deepspeed_")
    if zero and find_spec("deepspeed") is None:
        yield (
            f"trainer.strategy={trainer.strategy!r} needs the package deepspeed: "
            "pip install -e '.[scale]', or choose fsdp"
        )
    if zero and trainer.precision not in ("auto", "32-true", "bf16-mixed"):
        yield f"trainer.precision={trainer.precision!r}: with deepspeed, 32-true or bf16-mixed"
    if trainer.strategy == "deepspeed_3":
        by_need = {
            f"training.segment={config.training.segment}": config.training.segment > 0,
            "data.packing=documents": config.data.packing == "documents",
        }
        for key in (key for key, asked in by_need.items() if asked):
            yield (
                f"{key}: deepspeed_3 gathers the weights of a block each time it is called, and "
                "here that is not equally often in every process; use fsdp or deepspeed_2"
            )
    if zero and config.model.get("tie_embeddings"):
        yield (
            f"model.tie_embeddings=true: trainer.strategy={trainer.strategy} would share out the "
            "tied weight twice; use fsdp or ddp"
        )
    if trainer.offload and trainer.strategy in ("auto", "ddp"):
        yield "trainer.offload=true needs trainer.strategy=fsdp or deepspeed_1, _2, _3"
    if trainer.strategy == "fsdp" and trainer.offload and trainer.accelerator == "cpu":
        yield NO_OFFLOAD


def _spans(config: TrainConf, world: int) -> Iterator[str]:
    """Whether the processes can share every sequence equally."""
    key, segment = "trainer.sequence_parallel=true", config.training.segment
    if world == 1:
        yield f"{key} needs several processes: trainer.devices=2, or torchrun"
    if config.trainer.strategy not in ("auto", "ddp"):
        yield f"{key}: not with trainer.strategy={config.trainer.strategy!r}, choose ddp"
    if (backend := config.trainer.compile) not in ("auto", "none"):
        yield f"{key}: not with trainer.compile={backend}; no graph holds what processes exchange"
    if config.data.length_warmup:
        yield f"{key}: not with data.length_warmup, whose sequences cannot always be shared equally"
    if config.data.packing == "documents":
        yield f"{key}: data.packing=documents cannot be split, choose none"
    if 0 < segment < config.data.length and (config.data.length % segment or segment % world):
        yield (
            f"training.segment={segment}: with {key} it must divide data.length="
            f"{config.data.length} and be a multiple of the {world} processes"
        )
        return
    lengths = {"data.length": config.data.length}
    if is_task(config.data) and not list(part_problems(config.data)):
        for name, one in validation_confs(config.data).items():
            lengths[f"data.validation.{name}.length"] = one.length
    for name, length in lengths.items():
        if length % (segment if 0 < segment < length else world):
            yield (
                f"{name}={length} cannot be shared by {world} processes"
                f"{f' in segments of {segment}' if 0 < segment < length else ''}: choose a "
                f"multiple, or leave out {key}"
            )
