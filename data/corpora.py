"""Corpora: where the documents come from.

A corpus is an ordered list of documents. To add one, write a function in `data/readers/` that takes
a `DataConf` and returns something that yields its `Document`s whenever it is iterated, give it a
row in `CORPORA`, its name to the keys in `READ_BY` that it looks at, and a YAML in `conf/data/`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from conf.schema import DataConf
from core.errors import UserError
from data.documents import Document, Split
from data.parts import is_task, part_confs, validation_confs
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
RECORDS = ("jsonl", "tables", "hub", "files")
READ_BY: dict[str, tuple[str, ...]] = {
    "paths": tuple(name for name in CORPORA if name != "stdlib"),
    **dict.fromkeys(("field", "template", "chat", "prompt", "answer", "on_bad"), RECORDS),
    "split": ("hub",),
    "ids": ("tokens",),
    "encoding": ("text", "jsonl", "files"),
    "markup": ("text", "files"),
    "special_tokens": tuple(name for name in CORPORA if name != "tokens"),
    "val_fraction": tuple(CORPORA),
    "vocab_size": tuple(name for name in CORPORA if name != "tokens"),
}
"""Keys of `data` that change nothing for some corpora, and for which they do."""


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


def unread(conf: DataConf) -> Iterator[str]:
    """What is said of a corpus and not looked at. Raises `UserError` as `part_confs` does.

    What `data` says is for all that leave it out: one of them has to look at it.
    """
    usual = vars(DataConf())
    validating = {} if is_task(conf) else validation_confs(conf)
    parts = [
        (f"data.{group}.{name}: ", one, (words or {})[name])
        for group, words, confs in (
            ("parts", conf.parts, part_confs(conf)),
            ("validation", conf.validation, validating),
        )
        for name, one in confs.items()
    ]
    alone: list[tuple[str, DataConf, dict[str, Any]]] = [] if conf.mix else [("", conf, {})]
    for key in READ_BY:
        if getattr(conf, key) != usual[key] and (conf.mix or key != "paths"):
            heirs = [one for _, one, words in (*alone, *parts) if key not in words]
            if not any(_looks_at(one, key) for one in heirs):
                yield _changes_nothing(heirs[0] if heirs else None, key, getattr(conf, key))
        for place, one, words in parts:
            if key in words and words[key] != usual[key] and not _looks_at(one, key):
                yield place + _changes_nothing(one, key, words[key])


def _looks_at(conf: DataConf, key: str) -> bool:
    """Whether a corpus, which is one, is read by this key."""
    if conf.corpus not in READ_BY[key]:
        return False
    return key != "field" or not (conf.template or conf.chat or conf.prompt or conf.answer)


def _changes_nothing(conf: DataConf | None, key: str, value: Any) -> str:
    said = f"data.{key}={value!r:.80} changes nothing"
    if conf is None:
        return f"{said}: each part of data.mix has its own"
    if conf.corpus in READ_BY[key]:
        return f"{said} beside data.template, data.chat, data.prompt or data.answer: leave it out"
    *others, last = READ_BY[key]
    those = f"{', '.join(others)} and {last}" if others else last
    return f"{said} with data={conf.corpus}: it is for data={those}"
