"""Corpora: where the documents come from.

A corpus is an ordered list of documents. To add one, write a function in `data/readers/` that takes
a `DataConf` and returns something that yields its `Document`s whenever it is iterated, give it a
row in `CORPORA`, and a YAML in `conf/data/`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from conf.schema import DataConf
from core.errors import UserError
from data.documents import Document, Split
from data.readers import text
from data.readers.hub import HubFiles
from data.readers.jsonl import jsonl
from data.readers.mixed import MixedFiles
from data.readers.stdlib import stdlib
from data.readers.tables import tables
from data.readers.tokens import TokenFiles
from data.splitting import split
from data.tasks.task_data import TASKS

Reader = Callable[[DataConf], Iterable[Document]]
CORPORA: dict[str, Reader] = {
    "stdlib": stdlib,
    "text": text.TextFiles,
    "jsonl": jsonl,
    "tables": tables,
    "tokens": TokenFiles,
    "hub": HubFiles,
    "files": MixedFiles,
}


def documents(conf: DataConf) -> Iterable[Document]:
    """The documents of the corpus named by `conf.corpus`, not read yet.

    Raises `UserError` if the name is unknown, or nothing is named.
    """
    if conf.corpus in TASKS:
        raise UserError(f"data.corpus={conf.corpus}: a task has no texts; it is for trainings only")
    if conf.corpus not in CORPORA:
        raise UserError(
            f"data.corpus={conf.corpus!r}: no such corpus; choose one of {', '.join(CORPORA)}"
        )
    return CORPORA[conf.corpus](conf)


def load(conf: DataConf) -> Split:
    """Read and split the corpus named by `conf.corpus`.

    Raises `UserError` if the name is unknown, the files cannot be used, or there is not enough text
    to have both a training and a validation part.
    """
    return split(documents(conf), conf.val_fraction)


def early_problems(conf: DataConf) -> list[str]:
    """What is wrong with the corpus, as far as a moment's look tells."""
    return text.early_problems(conf) if conf.corpus == "text" else []
