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
    INT8,
    BusyConf,
    ConvertConf,
    DataConf,
    DemoConf,
    EvaluateConf,
    GenerateConf,
    OpeningConf,
    PlanConf,
    PrepareConf,
    ProbeConf,
    ReportConf,
    ServeConf,
    TortureConf,
    TrainConf,
)
from core.errors import UserError
from data.tasks.task_data import TASKS
from models.registry import makes_rows
from scripts.cli.image_checks import image_probe_problems
from scripts.cli.model_spec import model_spec
from scripts.cli.probed_models import probed_model
from scripts.cli.shared_checks import (
    build_problems,
    corpus_problems,
    device_problems,
    name_problems,
    on_gpu,
    size_problems,
)
from scripts.cli.training_checks import deep_training_problems, training_problems
from serving.routes import model_names, route_problems
from tracking.wandb_run import wandb_problems

Checker = Callable[[Any], Iterator[str]]


CHECKS: dict[str, list[Checker]] = {"train": [training_problems]}
DEEP_CHECKS: dict[str, list[Checker]] = {"train": [deep_training_problems]}
"""By script, what words alone decide, and what only the models and PyTorch do."""


def check(*scripts: str, deep: bool = False) -> Callable[[Checker], Checker]:
    """Have the function check the configurations of these scripts."""

    def register(function: Checker) -> Checker:
        for script in scripts:
            (DEEP_CHECKS if deep else CHECKS).setdefault(script, []).append(function)
        return function

    return register


def combination_problems(config_name: str, config: Any) -> list[str]:
    """Every impossible combination in a typed configuration that words alone decide."""
    problems = [problem for look in CHECKS.get(config_name, ()) for problem in look(config)]
    recorded = getattr(config, "wandb", None)
    return problems if recorded is None else [*problems, *wandb_problems(recorded)]


def deep_combination_problems(config_name: str, config: Any) -> list[str]:
    """Impossible combinations that only the models and PyTorch decide."""
    return [problem for look in DEEP_CHECKS.get(config_name, ()) for problem in look(config)]


@check("probe", "repeatability")
def _probe(config: ProbeConf) -> Iterator[str]:
    yield from name_problems("group", config.group)
    yield from size_problems(config.model)
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
    yield from device_problems(config.accelerator)
    beyond = {"decode": config.decode_steps, "max_batch": 3}  # tokens after the context
    reach = max(config.lengths) + max((beyond.get(probe, 0) for probe in config.probes), default=0)
    try:
        spec = probed_model(config)
    except UserError as error:
        yield str(error)
        return
    if images := list(image_probe_problems(config, spec)):
        yield from images
        return
    owner = "" if config.run is None else f"run={config.run}"
    yield from build_problems(spec, reach, "the longest of lengths (+ decode_steps)", owner)


@check("plan")
def _plan(config: PlanConf) -> Iterator[str]:
    yield from size_problems(config.model)
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
    spec = model_spec(config.model, config.data.vocab_size)
    if makes_rows(spec.target):
        yield f"model={spec.name} makes images: no step of it is planned, measure it with probe.py"
        return
    yield from build_problems(spec, length, name)


@check("report")
def _report(config: ReportConf) -> Iterator[str]:
    if not config.runs:
        yield "runs=[]: give at least one run or group folder"
    if config.slope_from >= config.slope_to:
        yield f"slope_from={config.slope_from} must be below slope_to={config.slope_to}"


@check("report", "serve")
def _price(config: ReportConf | ServeConf) -> Iterator[str]:
    if config.price_per_hour is not None and config.currency is None:
        yield (
            f"price_per_hour={config.price_per_hour:g} has no unit: add currency=EUR, USD or "
            "another of its values"
        )


@check("generate", "chat", "evaluate", "serve", deep=True)
def _weights_deep(config: OpeningConf) -> Iterator[str]:
    yield from device_problems(config.accelerator)


@check("demo")
def _demo(config: DemoConf) -> Iterator[str]:
    yield from name_problems("group", config.group)


@check("serve")
def _serve(config: ServeConf) -> Iterator[str]:
    if not config.run:
        yield "run=[]: give at least one run"
    if len(set(config.run)) < len(config.run):
        yield f"run={config.run}: names one model twice"
    else:
        yield from route_problems(config.routes, model_names(config.run))
    if config.key_file is not None and config.keys_file is not None:
        yield "key_file= is of one key and keys_file= of several: give one of them"


@check("generate")
def _generate(config: GenerateConf) -> Iterator[str]:
    if (config.prompts is None) != (config.out is None):
        yield "prompts=FILE and out=FILE go together: the prompts, and the answers"
    if config.prompts is not None and config.prompt:
        yield "prompt= is one text and prompts= a file of several: give one of them"
    if config.beam and config.prompts is not None:
        yield f"beam={config.beam} is for one prompt=: the prompts of a file are sampled"
    for name in ("temperature", "top_k", "top_p", "seed"):
        if config.beam and (value := getattr(config, name)) != getattr(GenerateConf, name):
            yield f"{name}={value} changes nothing about beam={config.beam}: leave it out"


@check("generate", "chat", "evaluate", "serve")
def _weights(config: OpeningConf) -> Iterator[str]:
    if config.tokenizer is not None and not Path(config.tokenizer).exists():
        yield f"tokenizer={config.tokenizer!r}: no such file or folder"


@check("prepare")
def _prepare(config: PrepareConf) -> Iterator[str]:
    yield from corpus_problems(config.data)
    if config.binidx is None and config.part != "train":
        yield f"part={config.part} is about what is written: give binidx=PATH too"
    if config.binidx is not None and config.data.mix:
        yield "binidx= is written of one corpus: prepare each part of data.mix by itself"


@check("evaluate")
def _evaluate(config: EvaluateConf) -> Iterator[str]:
    if config.data is None and not config.tasks and not config.memory:
        yield (
            "nothing to evaluate on: give data=text data.paths='[book.txt]', tasks=NAME, or "
            "memory=256 for how far back a run remembers"
        )
    if config.memory and config.dtype == INT8:
        yield f"memory= needs gradients, which dtype={INT8} has not: leave dtype out"
    if config.data is not None and config.data.corpus in TASKS:
        yield (
            f"data={config.data.corpus} makes its sequences while it is trained on: give texts; "
            "memory= reads what the run itself validates with where data= is left out"
        )
    elif config.data is not None:
        yield from corpus_problems(config.data)
        if config.data.val_fraction == 0 and config.part == "val":
            yield "part=val: with data.val_fraction=0 nothing is held out"
        for key in (
            "tokenizer", "vocab_size", "length", "batch_size", "packing", "workers", "verify",
            "batch_warmup", "length_warmup", "cache_dir", "order", "magic_prime", "mix",
            "validation", "special_tokens", "end_of_text",
        ):  # fmt: skip
            if key == "tokenizer" and config.data.corpus in ("tokens", "files"):
                continue  # the one that token ids belong to
            if key == "tokenizer" and config.data.chat == "tokenizer":
                continue  # the one whose chat template it is
            if (value := getattr(config.data, key)) != getattr(DataConf, key):
                way_out = {
                    "length": "the context is context=",
                    "tokenizer": "give tokenizer=PATH",
                    "cache_dir": "texts are read, and nothing is prepared; leave it out",
                }
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


def memory_problems(config: Any) -> list[str]:
    """What cannot fit into this machine; of a configuration that is sound otherwise."""
    if not isinstance(config, TrainConf | ProbeConf):
        return []
    from core.precision import of_probe
    from training.failures import oom_advice

    has_gpu = getattr(config, "accelerator", "") != "cpu" and on_gpu()
    problem = None
    if isinstance(config, TrainConf):
        # The texts may turn out to need fewer entries than they are allowed.
        least = config.data.vocab_size if config.data.tokenizer == "bpe" else 1
        has_gpu = config.trainer.accelerator != "cpu" and on_gpu()
        problem = oom_advice.too_large(config, model_spec(config.model, least), has_gpu)
    else:
        width = 4 if of_probe(config.precision, has_gpu) == "float32" else 2
        problem = oom_advice.weights_too_large(probed_model(config), width, has_gpu)
    return [problem] if problem else []


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
