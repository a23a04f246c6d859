"""Values that are fine alone and impossible together, by script.

What needs PyTorch is asked last, and imported only then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from conf.schema import (
    FAULTS,
    BusyConf,
    ConvertConf,
    DataConf,
    DemoConf,
    EvaluateConf,
    GenerateConf,
    PlanConf,
    ProbeConf,
    ReportConf,
    TortureConf,
    TrainConf,
    TrainingConf,
    decay_steps,
)
from core.errors import UserError, shown
from core.launcher import detect_launcher, processes_of
from data.corpora import CORPORA
from data.growth import Growth
from models.registry import model_class
from scripts.cli.model_spec import model_spec, nearest
from training.checkpoints.keep import Keep
from training.loop import plugins
from training.run_folder.folder import check_name, resume_target
from training.run_folder.naming import default_name

NO_HALF = "trainer.precision='16-mixed' needs a GPU; on a CPU use 'bf16-mixed'"
SPLIT = ("fsdp", "deepspeed_3")
"""Strategies with which no process has all weights."""
NO_OFFLOAD = "trainer.offload=true: with fsdp on a CPU everything lies in its memory already"
Checker = Callable[[Any], Iterator[str]]


CHECKS: dict[str, Checker] = {}
DEEP_CHECKS: dict[str, Checker] = {}
"""By script, what words alone decide, and what only the models and PyTorch do."""


def check(*scripts: str, deep: bool = False) -> Callable[[Checker], Checker]:
    """Have the function check the configurations of these scripts."""

    def register(function: Checker) -> Checker:
        (DEEP_CHECKS if deep else CHECKS).update(dict.fromkeys(scripts, function))
        return function

    return register


def combination_problems(config_name: str, config: Any) -> list[str]:
    """Every impossible combination in a typed configuration that words alone decide."""
    return list(CHECKS[config_name](config)) if config_name in CHECKS else []


def deep_combination_problems(config_name: str, config: Any) -> list[str]:
    """Impossible combinations that only the models and PyTorch decide."""
    return list(DEEP_CHECKS[config_name](config)) if config_name in DEEP_CHECKS else []


@check("train")
def _train(config: TrainConf) -> Iterator[str]:
    data, trainer = config.data, config.trainer
    for key, name in (("name", config.name), ("group", config.group)):
        yield from _folder_name(key, name)
    yield from _corpus(data)
    yield from _size(config.model)
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
    if config.take != "auto" and not config.init_from:
        yield f"take={config.take} says how much of from= is taken over: give from= too"
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
    if data.tokenizer not in ("bpe", "bytes", "chars") and not Path(data.tokenizer).is_file():
        yield f"data.tokenizer={data.tokenizer!r}: not bpe, bytes or chars, and no such file"
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
    try:
        keep = Keep.parse(config.checkpoint.keep)
    except UserError as error:
        yield str(error)
        return
    if keep.best > 1 and not config.checkpoint.best:
        yield f"checkpoint.keep=best:{keep.best}: with checkpoint.best=false no best is kept"


def _corpus(data: DataConf) -> Iterator[str]:
    """Whether there is such a corpus, and it is named as it is read."""
    if data.corpus not in CORPORA:
        yield f"data.corpus={data.corpus!r}: no such corpus{nearest(data.corpus, list(CORPORA))}"
    if data.corpus == "text" and not data.paths:
        yield "data=text needs data.paths, e.g. data.paths='[book.txt]'"
    if data.corpus == "stdlib" and data.paths:
        yield f"data.paths={data.paths} is not read by data=stdlib; did you mean data=text?"


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
    yield from _folder_name("trunk", config.trunk)
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


@check("train", deep=True)
def _train_deep(config: TrainConf) -> Iterator[str]:
    data, trainer = config.data, config.trainer
    for key in ("callbacks", "loggers"):
        try:
            plugins.check(key, getattr(config, key))
        except UserError as error:
            yield str(error)
    yield from _device(trainer.accelerator)
    yield from _buildable(config.model, data.vocab_size, data.length, "data.length")
    if config.training.segment and not model_class(config.model["target"]).recurrent:
        yield (
            f"training.segment={config.training.segment}: {config.model['name']} has no state that "
            "carries gradients; use training.gradient_checkpointing=true to save memory"
        )
    if trainer.accelerator == "cpu":
        return
    if trainer.precision == "16-mixed" and not _on_gpu():
        yield NO_HALF
    place, gpus = detect_launcher(), _gpus()
    here = place.local_world if place else trainer.devices
    if 0 < gpus < here:
        yield f"{here} processes need a GPU each, and PyTorch sees {gpus} on this machine"
    if trainer.strategy == "fsdp" and trainer.offload and not _on_gpu():
        yield NO_OFFLOAD


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
    if zero and trainer.precision not in ("32-true", "bf16-mixed"):
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
    if trainer.strategy == "fsdp" and trainer.precision == "16-mixed":
        yield "trainer.precision='16-mixed' scales losses, which fsdp does not; use 'bf16-mixed'"
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
    if config.data.length_warmup:
        yield f"{key}: not with data.length_warmup, whose sequences cannot always be shared equally"
    if config.data.packing == "documents":
        yield f"{key}: data.packing=documents cannot be split, choose none"
    if 0 < segment < config.data.length and (config.data.length % segment or segment % world):
        yield (
            f"training.segment={segment}: with {key} it must divide data.length="
            f"{config.data.length} and be a multiple of the {world} processes"
        )
    elif config.data.length % world:
        yield (
            f"data.length={config.data.length} cannot be shared by {world} processes: choose a "
            f"multiple, or leave out {key}"
        )


@check("probe", "repeatability")
def _probe(config: ProbeConf) -> Iterator[str]:
    yield from _folder_name("group", config.group)
    yield from _size(config.model)
    empty = {
        "lengths": "context length",
        "probes": "probe",
        "sweeps": "sweep",
        "processes": "number of processes",
    }
    missing = [name for name in empty if not getattr(config, name)]
    for name in missing:
        yield f"{name}=[]: give at least one {empty[name]}"
    if missing:
        return
    if len(config.processes) not in (1, len(config.lengths)):
        yield (
            f"processes={list(config.processes)}: one number, or one for each of "
            f"lengths={list(config.lengths)}"
        )
    if "fixed_tokens" in config.sweeps and config.fixed_tokens < min(config.lengths):
        yield f"fixed_tokens={config.fixed_tokens} is below every context length in lengths"


@check("probe", "repeatability", "busy", deep=True)
def _probe_deep(config: ProbeConf) -> Iterator[str]:
    yield from _device(config.accelerator)
    beyond = {"decode": config.decode_steps, "max_batch": 3}  # tokens after the context
    reach = max(config.lengths) + max((beyond.get(probe, 0) for probe in config.probes), default=0)
    yield from _buildable(
        config.model, config.vocab_size, reach, "the longest of lengths (+ decode_steps)"
    )


@check("plan")
def _plan(config: PlanConf) -> Iterator[str]:
    yield from _size(config.model)
    if config.lengths and not config.out:
        yield f"lengths={config.lengths} draws a curve: say where with out=FOLDER"
    if config.runs and not config.lengths:
        yield "runs= are drawn beside a curve: give its context lengths with lengths=[...]"
    if config.data.batch_size % config.devices:
        yield (
            f"data.batch_size={config.data.batch_size} cannot be shared by "
            f"devices={config.devices}: choose a multiple, or 0 for one sequence each"
        )


@check("plan", deep=True)
def _plan_deep(config: PlanConf) -> Iterator[str]:
    length = max([config.data.length, *config.lengths])
    name = "data.length" if length == config.data.length else "the longest of lengths"
    yield from _buildable(config.model, config.data.vocab_size, length, name)


@check("report")
def _report(config: ReportConf) -> Iterator[str]:
    if not config.runs:
        yield "runs=[]: give at least one run or group folder"
    if config.price_per_hour is not None and config.currency is None:
        yield (
            f"price_per_hour={config.price_per_hour:g} has no unit: add currency=EUR, USD or "
            "another of its values"
        )
    if config.slope_from >= config.slope_to:
        yield f"slope_from={config.slope_from} must be below slope_to={config.slope_to}"


@check("generate", "evaluate", deep=True)
def _generate_deep(config: GenerateConf | EvaluateConf) -> Iterator[str]:
    yield from _device(config.accelerator)


@check("demo")
def _demo(config: DemoConf) -> Iterator[str]:
    yield from _folder_name("group", config.group)


@check("generate")
def _generate(config: GenerateConf) -> Iterator[str]:
    if config.tokenizer is not None and not Path(config.tokenizer).is_file():
        yield f"tokenizer={config.tokenizer!r}: no such file"


@check("evaluate")
def _evaluate(config: EvaluateConf) -> Iterator[str]:
    if config.tokenizer is not None and not Path(config.tokenizer).is_file():
        yield f"tokenizer={config.tokenizer!r}: no such file"
    if config.data is None and not config.tasks:
        yield "nothing to evaluate on: give data=text data.paths='[book.txt]', tasks=NAME, or both"
    if config.data is not None:
        yield from _corpus(config.data)
        for key in (
            "tokenizer", "vocab_size", "length", "batch_size", "packing", "workers", "verify",
            "batch_warmup", "length_warmup",
        ):  # fmt: skip
            if (value := getattr(config.data, key)) != getattr(DataConf, key):
                way_out = {"length": "the context is context=", "tokenizer": "give tokenizer=PATH"}
                why = way_out.get(key, "leave it out")
                yield f"data.{key}={value} changes nothing about an evaluation: {why}"
    elif config.part != "all":
        yield f"part={config.part} is about the documents of a corpus: give data= too"
    for key in ("tasks_file", "include_path", "fewshot", "limit"):
        if getattr(config, key) not in (None, 0) and not config.tasks:
            yield f"{key}={getattr(config, key)} is about tasks: give tasks= too"
    if config.tasks and find_spec("lm_eval") is None:
        yield "tasks= needs EleutherAI's lm-evaluation-harness: pip install -e '.[eval]'"
    if config.tasks_file is not None:
        if len(config.tasks) > 1:
            yield "tasks_file= is read by one task: give one in tasks="
        if not Path(config.tasks_file).is_file():
            yield f"tasks_file={config.tasks_file!r}: no such file"
    if config.include_path is not None and not Path(config.include_path).is_dir():
        yield f"include_path={config.include_path!r}: no such folder"


@check("convert", deep=True)
def _convert_deep(config: ConvertConf) -> Iterator[str]:
    from models.formats.save import check_target

    try:
        check_target(Path(config.target), config.format, config.overwrite)
    except UserError as error:
        yield str(error)


def _size(model: dict[str, Any]) -> Iterator[str]:
    try:
        model_spec(model, 0)
    except UserError as error:
        yield str(error)


def _buildable(model: dict[str, Any], vocab: int, length: int, name: str) -> Iterator[str]:
    """Whether the model's own checks accept its sizes, without building all of it."""
    from models.sketch import sketch

    try:
        drawn = sketch(model_spec(model, vocab))
    except UserError as error:
        yield str(error)
        return
    except (LookupError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        yield f"no model of these sizes can be built ({str(error).splitlines()[0]})"
        return
    if drawn.positions is not None and drawn.positions < length:
        yield f"model.{drawn.length_field}={drawn.positions} is shorter than {name}={length}"


def memory_problems(config: Any) -> list[str]:
    """What cannot fit into this machine; of a configuration that is sound otherwise."""
    if not isinstance(config, TrainConf | ProbeConf):
        return []
    from training.failures import oom_advice

    on_gpu = getattr(config, "accelerator", "") != "cpu" and _on_gpu()
    problem = None
    if isinstance(config, TrainConf):
        # The texts may turn out to need fewer entries than they are allowed.
        least = config.data.vocab_size if config.data.tokenizer == "bpe" else 1
        on_gpu = config.trainer.accelerator != "cpu" and _on_gpu()
        problem = oom_advice.too_large(config, model_spec(config.model, least), on_gpu)
    else:
        width = 4 if config.precision == "float32" else 2
        spec = model_spec(config.model, config.vocab_size)
        problem = oom_advice.weights_too_large(spec, width, on_gpu)
    return [problem] if problem else []


def _folder_name(key: str, name: str | None) -> Iterator[str]:
    try:
        if name is not None:
            check_name(key, name)
    except UserError as error:
        yield str(error)


def _gpus() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _on_gpu() -> bool:
    return _gpus() > 0


def _device(accelerator: str) -> Iterator[str]:
    if accelerator == "gpu" and not _on_gpu():
        yield "accelerator='gpu': PyTorch sees no GPU here (scripts/doctor.py says more)"


@check("busy")
def _busy(config: BusyConf) -> Iterator[str]:
    yield from _probe(config)
    if not config.beside:
        yield "beside=[]: give at least one number of busy processes, e.g. beside=[0,1]"
    elif len(set(config.beside)) < len(config.beside):
        yield f"beside={config.beside}: each number once"


@check("torture")
def _torture(config: TortureConf) -> Iterator[str]:
    if not config.faults:
        yield f"faults=[]: give at least one of {', '.join(FAULTS)}"
