"""Parts of the checks of several scripts.

What needs PyTorch imports it only when it is asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from conf.schema import LAYERS, TOKENS, WIDTH, DataConf
from core.bounds import INTEGER, nearest
from core.errors import UserError
from data.corpora import CORPORA, unread
from data.parts import is_task, part_confs, part_problems, validation_confs
from data.readers.paths import unnamed
from data.readers.records import shape_of
from data.readers.text_encoding import is_utf8
from data.tasks.task_data import TASKS, task_problems
from models.registry import ModelSpec
from scripts.cli.model_spec import model_spec
from training.run_folder.folder import check_name

LEAST = 0.0001
"""The smallest share of a corpus that is held out, if any is."""


def corpus_problems(data: DataConf) -> Iterator[str]:
    """Whether there are such corpora, and they are named as they are read."""
    problems = list(part_problems(data))
    yield from problems
    named = {} if data.mix else {"": data}
    if not problems:
        for name, one in {**part_confs(data), **validation_confs(data)}.items():
            if one.corpus in TASKS and not is_task(data):
                yield f"{name}: a task is trained and validated alone: data={one.corpus}"
        named |= {f"data.parts.{name}: ": one for name, one in part_confs(data).items()}
        if not is_task(data):  # whose sequences have been checked
            further = validation_confs(data).items()
            named |= {f"data.validation.{name}: ": one for name, one in further}
    if data.end_of_text == "after" and data.packing == "documents":
        yield (
            "data.packing=documents knows documents by the token before them: not with "
            "data.end_of_text=after"
        )
    if data.mix and not problems:
        nothing = [name for name, one in part_confs(data).items() if one.val_fraction == 0]
        if 0 < len(nothing) < len(data.mix):
            yield (
                f"data.parts.{nothing[0]}.val_fraction=0: of a mixture each part holds a share "
                "out, or none does (data.val_fraction=0)"
            )
    wrong = [place + problem for place, one in named.items() for problem in _of_one_corpus(one)]
    yield from wrong
    if not problems and not wrong:
        yield from unread(data)


def _of_one_corpus(data: DataConf) -> Iterator[str]:
    if 0 < data.val_fraction < LEAST:
        yield f"data.val_fraction={data.val_fraction}: must be 0, or at least {LEAST}"
    if data.corpus in TASKS:
        yield from task_problems(data)
        return
    if data.corpus not in CORPORA:
        known = [*CORPORA, *TASKS]
        yield f"data.corpus={data.corpus!r}: no such corpus{nearest(data.corpus, known)}"
    if data.task is not None:
        yield f"data.task={data.task!r:.80} is of a synthetic task, and data={data.corpus} is none"
    if data.corpus in CORPORA and data.corpus != "stdlib" and not data.paths:
        yield unnamed(data.corpus)
    if data.corpus == "stdlib" and data.paths:
        yield f"data.paths={data.paths} is not read by data=stdlib; did you mean data=text?"
    try:
        is_utf8(data.encoding)
        if data.template or data.chat or data.prompt or data.answer:
            shape_of(data)
    except UserError as error:
        yield str(error)


def size_problems(model: dict[str, Any]) -> Iterator[str]:
    """Whether the model has the size that is asked for, as far as that can be told without its
    class, which imports PyTorch: what counts something is what counts something in a preset."""
    try:
        config = model_spec(model, 1).config
    except UserError as error:
        yield str(error)
        return
    presets: dict[str, dict[str, Any]] = model["sizes"]
    kinds = {(name, type(value)) for preset in presets.values() for name, value in preset.items()}
    for name, value in config.items():
        if (name, int) not in kinds or (name, str) in kinds:
            continue
        if type(value) is int and (problem := count_problem(name, value)):
            yield problem
        elif isinstance(value, str):
            yield f"model.{name}={value:.80}: {INTEGER}"


def count_problem(name: str, value: int, low: int = 1) -> str | None:
    """What is wrong with a number of layers, channels or whatever else a model counts."""
    most = {"n_layer": LAYERS, "n_embd": WIDTH}.get(name, TOKENS)
    if value < low:
        return f"model.{name}={value}: must be at least {low}"
    if value > most:
        return f"model.{name}={value}: must be at most {most}"
    return None


def build_problems(spec: ModelSpec, length: int, name: str, owner: str = "") -> Iterator[str]:
    """Whether the model's own checks accept its sizes, without building all of it.

    `name` is what asks for a context of `length` tokens; `owner` has the model, if not `model=`.
    """
    from models.meta import sketch

    try:
        drawn = sketch(spec)
    except UserError as error:
        yield str(error)
        return
    except (LookupError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        yield f"no model of these sizes can be built ({str(error).splitlines()[0]})"
        return
    if drawn.positions is not None and drawn.positions < length:
        field = f"{owner}: {drawn.length_field}" if owner else f"model.{drawn.length_field}"
        yield f"{field}={drawn.positions} is shorter than {name}={length}"


def name_problems(key: str, name: str | None) -> Iterator[str]:
    """Whether a name, if one is given, can be that of a folder."""
    try:
        if name is not None:
            check_name(key, name)
    except UserError as error:
        yield str(error)


def number_of_gpus() -> int:
    """How many GPUs PyTorch sees."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def on_gpu() -> bool:
    """Whether there is a GPU."""
    return number_of_gpus() > 0


def device_problems(accelerator: str) -> Iterator[str]:
    """Whether the device is here."""
    if accelerator == "gpu" and not on_gpu():
        yield "accelerator='gpu': PyTorch sees no GPU here (scripts/doctor.py says more)"
