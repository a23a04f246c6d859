"""A synthetic task as the data of a training: what `data.store.Corpus` is for texts.

Row r of a training is a pure function of (task, seed, r), like the windows of a corpus, so resuming
is exact and any process makes the rows that it needs. Every row is new: there are no epochs. Rows
that validate do not depend on the seed of the training, and are never trained on.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from conf.schema import DataConf
from core.errors import UserError
from data.growth import Growth
from data.meta import MASK_DTYPE
from data.order import SPLITMIX_STEP, random_numbers, rows_of, scramble
from data.tasks.copying import Copying
from data.tasks.task import Task
from data.text import TextTokenizer

TASKS: dict[str, Task] = {"copy": Copying()}
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
    """A task and the length of its sequences; holds none of them."""

    name: str
    length: int
    """Context length T; a sequence has T + 1 tokens."""
    masked = True
    meta = NoText()

    @property
    def task(self) -> Task:
        """The rule that makes the sequences."""
        return TASKS[self.name]

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
        """16 hex digits over the task: its name, version and symbols."""
        key = f"task {self.name} {self.task.version} {self.task.symbols}"
        return hashlib.sha256(key.encode()).hexdigest()[:16]

    @property
    def heldout(self) -> int:
        """Number of sequences that validate at the end."""
        return max(1, min(SEQUENCES, VALIDATED // self.length))


def open_task(conf: DataConf) -> TaskData:
    """The task that `conf.corpus` names. Raises `UserError` for what it cannot be read with."""
    if problems := task_problems(conf):
        raise UserError("; ".join(problems))
    return TaskData(conf.corpus, conf.length)


def task_problems(conf: DataConf) -> list[str]:
    """Why the task that `conf.corpus` names cannot be read so."""
    name, task = f"data={conf.corpus}", TASKS[conf.corpus]
    problems = []
    if conf.paths:
        problems.append(f"data.paths={conf.paths} is not read by {name}, which makes its sequences")
    if conf.tokenizer != "chars":
        problems.append(
            f"data.tokenizer={conf.tokenizer!r}: a token of {name} is a character; use chars"
        )
    if conf.length < task.shortest:
        problems.append(f"data.length={conf.length}: {name} needs {task.shortest} or more")
    if conf.packing == "documents":
        problems.append(f"data.packing=documents: a sequence of {name} is one document")
    if conf.length_warmup:
        problems.append(f"data.length_warmup={conf.length_warmup}: {name} has one length")
    if conf.order != "random":
        problems.append(f"data.order={conf.order}: {name} has no text to read in an order")
    if conf.validation:
        problems.append(f"data.validation: {name} is validated on sequences of its own alone")
    return problems


class TaskRows:
    """Rows of a task as `data.token_rows.TokenRows` has those of a corpus.

    One after the other they are an endless row of tokens, in which row r begins at r (T + 1).
    """

    def __init__(self, data: TaskData, name: str) -> None:
        """`name` decides the random numbers."""
        self._task, self._width = data.task, data.length + 1
        self._key = np.array(random_numbers(f"{data.fingerprint} {name}", 1), dtype=np.uint64)

    def tokens(self, starts: np.ndarray, width: int) -> np.ndarray:
        """The `width` tokens from each of `starts` `[N]` on, all of one row: int64 `[N, width]`."""
        return self._part(self.rows(starts // self._width)[0], starts, width)

    def mask(self, starts: np.ndarray, width: int) -> np.ndarray:
        """1 for each of these tokens that is learned, else 0: `[N, width]`."""
        learned = self.rows(starts // self._width)[1].astype(MASK_DTYPE)
        return self._part(learned, starts, width)

    def rows(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tokens `[N, T + 1]` of the rows of these numbers `[N]`, and which are learned."""
        begin = scramble(self._key + numbers.astype(np.uint64) * SPLITMIX_STEP)
        steps = np.arange(1, self._width + 1, dtype=np.uint64) * SPLITMIX_STEP
        return self._task.sequences(scramble(begin[:, None] + steps))

    def _part(self, rows: np.ndarray, starts: np.ndarray, width: int) -> np.ndarray:
        columns = (starts % self._width)[:, None] + np.arange(width)
        return np.take_along_axis(rows, columns, axis=1)


def training_rows(data: TaskData, seed: int) -> TaskRows:
    """Those that a training with this seed reads."""
    return TaskRows(data, f"train {seed}")


def heldout_rows(data: TaskData, first: int, end: int) -> tuple[np.ndarray, np.ndarray]:
    """Validation rows `first` to `end`: ids int64 `[N, T + 1]`, and bool `[N, T + 1]`."""
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
        """Zeros, and where each row of the batch begins: int64 `[B]`."""
        starts = rows_of(step, self.batch_size) * (self.length + 1)
        return np.zeros(len(starts), dtype=np.int64), starts

    def named(self, step: int) -> list[str]:
        """The rows of a batch as a message names them."""
        return [str(start) for start in self.places(step)[1].tolist()]

    def order_hash(self, steps: int) -> str:
        """16 hex digits over the first `steps` batches: equal for equal tokens in equal order."""
        key = f"{self.fingerprint} {self.seed} {self.length} {self.batch_size} {steps}"
        key += "" if self.growth is None else repr(self.growth)
        return hashlib.sha256(key.encode()).hexdigest()[:16]
