"""Measure what weights are worth: `python scripts/evaluate.py run=first data=stdlib part=val`."""

from __future__ import annotations

from scripts.cli.launch import launch

if __name__ == "__main__":  # before the imports that take long: a wrong word is answered at once
    launch("evaluate", "scripts.evaluate:main")

import json
from pathlib import Path
from typing import Any

from conf.schema import DataConf, EvaluateConf
from core.files import write_text
from core.writable import check_writable, writing
from data import corpora
from data.encoding import Marked
from evaluation import tables
from evaluation.text_loss import text_loss
from models.formats.crossover import AVERAGE
from tracking.progress import Windows
from training.checkpoints.open_model import Opened, open_model

UNKNOWN_LENGTH = 1024
"""Tokens of context for a model that attends, where nothing says what it was trained with."""


def main(conf: EvaluateConf) -> None:
    """Print the figures, and write them as evaluation.json beside the run or into `out`."""
    if conf.out:
        check_writable(Path(conf.out), "out")
    tasks: Any = None
    if conf.tasks:
        from evaluation.tasks import Tasks  # imports the harness

        tasks = Tasks(conf.tasks, conf.include_path)
    documents = read_documents(conf.data, conf.part) if conf.data else []
    opened = open_model(conf, ["".join(part for part, *_ in each) for each in documents[:8]])
    context, model = context_of(opened, conf.context), opened.model
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


def context_of(opened: Opened, asked: int) -> int | None:
    """Most tokens of context of a prediction; None: as many as there are."""
    model = opened.model
    most = getattr(model.config, model.length_field) if model.length_field else None
    if not asked and model.recurrent:
        return None
    usual = asked or opened.trained_length or UNKNOWN_LENGTH
    return min(usual, most) if most else usual
