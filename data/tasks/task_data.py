"""A synthetic task as the data of a training: what `data.store.Corpus` is for texts.

Row r of a training is a pure function of (task, settings, seed, r), like the windows of a corpus,
so resuming is exact and any process makes the rows that it needs. Every row is new: there are no
epochs. Rows that validate do not depend on the seed of the training, and are never trained on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from conf.schema import DataConf
from core.bounds import type_problem
from core.errors import UserError
from data.growth import Growth
from data.order import SPLITMIX_STEP, random_numbers, rows_of, scramble
from data.tasks.copying import Copying, Reversal
from data.tasks.draw import Draw
from data.tasks.few_shot import FewShot
from data.tasks.lookup import Lookup
from data.tasks.needle import Needle
from data.tasks.ordering import ConvexHull, Sorting
from data.tasks.recall import Induction, Recall
from data.tasks.selective import SelectiveCopying
from data.tasks.task import Task, setting_problems
from data.tasks.translations import Dates, NumberWords
from data.tasks.two_blobs import TwoBlobs
from data.tasks.vectors import AssociativeRecall, RepeatCopying, VectorCopying
from data.tasks.word_problems import Parity, WordProblem
from data.text import TextTokenizer

TASKS: dict[str, type[Task]] = {
    "mqar": Recall,
    "copy": Copying,
    "reversal": Reversal,
    "lookup": Lookup,
    "selective_copy": SelectiveCopying,
    "induction": Induction,
    "word_problem": WordProblem,
    "parity": Parity,
    "needle": Needle,
    "ntm_copy": VectorCopying,
    "repeat_copy": RepeatCopying,
    "associative_recall": AssociativeRecall,
    "few_shot": FewShot,
    "two_blobs": TwoBlobs,
    "dates": Dates,
    "number_words": NumberWords,
    "sorting": Sorting,
    "convex_hull": ConvexHull,
}
"""By the name that `data.corpus` has for it. A further one needs a YAML in `conf/data/` too."""
VALIDATED = 1 << 16
"""Tokens of the sequences that validate at the end, at most."""
SEQUENCES = 1 << 11
"""Sequences that validate at the end, at most: many short ones would take minutes."""


@dataclass(frozen=True)
class NoText:
    """The figures of a text, of which there is none."""

    val_tokens_per_byte: None = None
    unigram_entropy: None = None
    gzip_bits_per_byte: None = None
    xz_bits_per_byte: None = None


@dataclass(frozen=True)
class TaskData:
    """A task with its settings, and the length of its sequences; holds none of them."""

    name: str
    task: Task
    length: int
    """Context length T."""
    masked = True
    meta = NoText()

    @property
    def tokenizer(self) -> TextTokenizer:
        """A token for each symbol, and no end of text."""
        from data.tokenizers import char_tokenizer  # imports the library; a command line needs none

        return char_tokenizer(self.task.symbols)

    @property
    def vocab_size(self) -> int:
        """Number of symbols."""
        return len(self.task.symbols)

    @property
    def fingerprint(self) -> str:
        """16 hex digits over the task: its name, version, settings and symbols."""
        key = f"task {self.name} {self.task.version} {self.task!r} {self.task.symbols}"
        return hashlib.sha256(key.encode()).hexdigest()[:16]

    @property
    def heldout(self) -> int:
        """Number of sequences that validate at the end."""
        return max(1, min(SEQUENCES, VALIDATED // self.length))


def open_task(conf: DataConf) -> TaskData:
    """The task that `conf.corpus` names. Raises `UserError` for what it cannot be read with."""
    if problems := task_problems(conf):
        raise UserError("; ".join(problems))
    return TaskData(conf.corpus, TASKS[conf.corpus](**(conf.task or {})), conf.length)


def task_problems(conf: DataConf) -> list[str]:
    """Why the task that `conf.corpus` names cannot be read so."""
    name = f"data={conf.corpus}"
    problems = []
    if conf.paths:
        problems.append(f"data.paths={conf.paths} is not read by {name}, which makes its sequences")
    if conf.tokenizer != "chars":
        problems.append(
            f"data.tokenizer={conf.tokenizer!r}: a token of {name} is a character; use chars"
        )
    if conf.packing == "documents":
        problems.append(f"data.packing=documents: a sequence of {name} is one document")
    if conf.length_warmup:
        problems.append(f"data.length_warmup={conf.length_warmup}: {name} has one length")
    if conf.order != "random":
        problems.append(f"data.order={conf.order}: {name} has no text to read in an order")
    wrong = list(setting_problems(TASKS[conf.corpus], conf.task, "data.task"))
    if not wrong:
        wrong = list(TASKS[conf.corpus](**(conf.task or {})).problems(conf.length))
    return problems + wrong


def task_validation(conf: DataConf) -> dict[str, DataConf]:
    """The configuration of each further set of sequences that validates a task, by name.

    Each has a length, settings of the task, or both of its own; what it leaves out is that of the
    training. The words have been checked (`task_validation_problems`).
    """
    return {
        name: replace(
            conf,
            validation=None,
            length=words.get("length", conf.length),
            task={**(conf.task or {}), **words.get("task", {})},
        )
        for name, words in (conf.validation or {}).items()
    }


def task_validation_problems(conf: DataConf) -> Iterator[str]:
    """What is wrong with the words of `data.validation` beside a task."""
    symbols = None
    if not task_problems(conf):
        symbols = TASKS[conf.corpus](**(conf.task or {})).symbols
    for name, words in (conf.validation or {}).items():
        place = f"data.validation.{name}"
        if not isinstance(words, dict):
            yield f"{place}={words!r:.80}: give its words, as in {{length: 128}}"
        elif unknown := [str(word) for word in words if word not in ("length", "task")]:
            yield (
                f"{place}.{unknown[0]}: beside data={conf.corpus}, what validates differs in its "
                "length and in the settings of task"
            )
        elif not isinstance(words.get("task", {}), dict):
            yield f"{place}.task={words['task']!r:.80}: give its settings, as in {{NAME: VALUE}}"
        elif problem := type_problem(words.get("length", 1), int):
            yield f"{place}.length={words['length']!r:.80}: {problem}"
        elif words.get("length", 1) < 1:
            yield f"{place}.length={words['length']}: must be at least 1"
        else:
            one = task_validation(replace(conf, validation={name: words}))[name]
            if wrong := task_problems(one):
                yield from (f"{place}: {problem}" for problem in wrong)
            elif symbols not in (None, TASKS[one.corpus](**(one.task or {})).symbols):
                yield f"{place}: its symbols are not those of the training"


def judges(corpus: str) -> bool:
    """Whether the corpus is a task that can say of a whole row that somebody made whether it is
    right, by its `judge`: `data.tasks.two_blobs`."""
    return hasattr(TASKS.get(corpus), "judge")


class TaskRows:
    """The rows of a task, by their numbers from 0 on."""

    def __init__(self, data: TaskData, name: str) -> None:
        """`name` decides the random numbers."""
        self._data = data
        self._key = np.array(random_numbers(f"{data.fingerprint} {name}", 1), dtype=np.uint64)

    def rows(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets `[N, T]` of the rows of these numbers `[N]`."""
        starts = scramble(self._key + numbers.astype(np.uint64) * SPLITMIX_STEP)
        return self._data.task.sequences(Draw(starts), self._data.length)


def training_rows(data: TaskData, seed: int) -> TaskRows:
    """Those that a training with this seed reads."""
    return TaskRows(data, f"train {seed}")


def heldout_rows(data: TaskData, first: int, end: int) -> tuple[np.ndarray, np.ndarray]:
    """Validation rows `first` to `end`: inputs and targets, int64 `[N, T]`."""
    return TaskRows(data, "val").rows(np.arange(first, end))


@dataclass(frozen=True)
class TaskOrder:
    """The rows of each batch, one after the other; see `data.order.Order`."""

    length: int
    batch_size: int
    fingerprint: str
    seed: int
    growth: Growth | None = None

    def places(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Zeros, and the numbers of the rows of the batch: int64 `[B]`."""
        rows = rows_of(step, self.batch_size)
        return np.zeros(len(rows), dtype=np.int64), rows

    def named(self, step: int) -> list[str]:
        """The rows of a batch as a message names them."""
        return [str(row) for row in self.places(step)[1].tolist()]

    def order_hash(self, steps: int) -> str:
        """16 hex digits over the first `steps` batches: equal for equal tokens in equal order."""
        key = f"{self.fingerprint} {self.seed} {self.length} {self.batch_size} {steps}"
        key += "" if self.growth is None else repr(self.growth)
        return hashlib.sha256(key.encode()).hexdigest()[:16]
