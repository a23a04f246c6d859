"""Measure what weights are worth: `python scripts/evaluate.py run=first data=stdlib part=val`."""

from __future__ import annotations

from scripts.cli.launch import launch

if __name__ == "__main__":  # before the imports that take long: a wrong word is answered at once
    launch("evaluate", "scripts.evaluate:main")

import json
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from conf.schema import DataConf, EvaluateConf
from core.errors import UserError
from core.files import write_text
from core.parsing import Missing, Unreadable, read_yaml
from core.writable import check_writable, writing
from data import corpora
from data.batches import validation_windows
from data.encoding import Marked
from data.parts import is_task
from data.tasks.task_data import open_task
from evaluation import tables
from evaluation.memory import WINDOWS, check_window, microscope, windows_of
from evaluation.text_loss import text_loss
from models.contract import most_tokens, separator_of
from models.formats.crossover import AVERAGE
from tracking.progress import Windows
from training.checkpoints.open_model import Opened, open_model

UNKNOWN_LENGTH = 1024
"""Tokens of context for a model that attends, where nothing says what it was trained with."""


def main(conf: EvaluateConf) -> None:
    """Print the figures, and write them as evaluation.json beside the run or into `out`."""
    if conf.out:
        check_writable(Path(conf.out), "out")
    if conf.memory:
        check_window(conf.memory)
    tasks: Any = None
    if conf.tasks:
        from evaluation.tasks import Tasks  # imports the harness

        tasks = Tasks(conf.tasks, conf.include_path)
    documents = read_documents(conf.data, conf.part) if conf.data else []
    opened = open_model(conf, ["".join(part for part, *_ in each) for each in documents[:8]])
    context, model = context_of(opened, conf.context), opened.model
    if separator_of(model) is not None:
        raise UserError(
            f"{model.title} reads a source, a separator and a target, and is not measured by texts,"
            " tasks of the harness or memory=: its figures are those of its training's validation"
        )
    result: dict[str, Any] = {
        "weights": str(opened.source.weights),
        "averaged": conf.weights == AVERAGE,
        "model": type(model).__name__,
        "parameters": sum(each.numel() for each in model.parameters()),  # type: ignore[attr-defined]
        "tokenizer": opened.tokenizer.fingerprint,
    }
    if conf.data:
        with Windows("reading", len(documents), unit="documents") as progress:
            found = text_loss(model, opened.tokenizer, documents, context, progress.show)
        result["text"] = {"corpus": conf.data.corpus, "part": conf.part, **found.as_dict()}
        print(tables.of_text(result["text"]))
    if tasks is not None:
        answers = tasks.answer(
            model, opened.tokenizer, context, conf.fewshot, conf.limit, conf.tasks_file
        )
        result["tasks"] = answers
        print(tables.of_tasks(answers))
    if conf.memory:
        result["memory"] = memory_of(opened, conf.memory, documents if conf.data else None)
        print(tables.of_memory(result["memory"]))
    beside = opened.folder.path if opened.folder is not None else None
    folder = Path(conf.out) if conf.out else beside
    if folder is None:
        print("not written to a file: out=FOLDER names a place for evaluation.json")
        return
    with writing(folder, "out"):
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "evaluation.json", json.dumps(result, indent=1) + "\n")
    print(f"wrote {folder / 'evaluation.json'}")


def read_documents(conf: DataConf, part: str) -> list[Marked]:
    """The texts of a corpus: all of them as they are, or one side of a training's split.

    Raises `UserError` for a corpus that cannot be read.
    """
    if part == "all":
        return [found for document in corpora.documents(conf) if (found := document.whole())]
    documents: list[list[tuple[str, bool, int]]] = []
    for piece in corpora.load(conf).parts(side=part):
        if piece.begins:
            documents.append([])
        documents[-1].append((piece.content.decode(), piece.ends, piece.mark))
    return [*documents]


def memory_of(opened: Opened, length: int, documents: list[Marked] | None = None) -> dict[str, Any]:
    """How far back a model remembers, in windows of at most `length` tokens; it is in fp32 after.

    Raises `UserError` as `memory_windows` does.
    """
    windows = memory_windows(opened, length, documents)
    return microscope(opened.model.float(), windows)  # type: ignore[attr-defined]


def memory_windows(opened: Opened, length: int, documents: list[Marked] | None) -> Tensor:
    """Windows `[W, T]` of these documents, or of what the run validates with.

    Sequences of a task are of their own length, at most `length`. Raises `UserError` where there is
    neither, or nothing that can be read.
    """
    if documents is None:
        conf = own_data(opened)
        if is_task(conf):
            ((inputs, _),) = validation_windows(open_task(conf), conf.length, WINDOWS, WINDOWS)
            return inputs[:, :length]
        documents = read_documents(conf, "val")
    return windows_of(documents, opened.tokenizer, length)


def own_data(opened: Opened) -> DataConf:
    """What a run was trained with, by its configuration. Raises `UserError` where it says none."""
    if opened.folder is None:
        raise UserError("memory= of a file of weights needs texts to read: give data= too")
    path = opened.folder.config
    try:
        found = read_yaml(path)["data"]
        conf: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(DataConf), found))
    except (Missing, Unreadable, KeyError, TypeError, OmegaConfBaseException) as error:
        raise UserError(
            f"{path} does not say what the run was trained on: give data= too"
        ) from error
    if conf.mix:
        raise UserError(f"{path}: the run reads a mixture, of which memory= reads none: give data=")
    return conf


def context_of(opened: Opened, asked: int) -> int | None:
    """Most tokens of context of a prediction; None: as many as there are."""
    model = opened.model
    most = most_tokens(model)
    if not asked and model.recurrent:
        return None
    usual = asked or opened.trained_length or UNKNOWN_LENGTH
    return min(usual, most) if most else usual
