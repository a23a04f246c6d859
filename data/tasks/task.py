"""What a synthetic task is: a rule that makes sequences, and says what of them is asked.

A task is a frozen dataclass whose fields are its settings, each a `conf.schema.key` with meaning
and bounds; their defaults are the published ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any, ClassVar, Protocol, get_type_hints

import numpy as np

from core.bounds import nearest, type_problem, value_problems
from data.meta import IGNORE
from data.tasks.draw import Draw


class Task(Protocol):
    """A rule without state. Its sequences follow from random numbers alone."""

    @property
    def version(self) -> int | str:
        """Another one wherever the same numbers would make other sequences."""
        ...

    has_separator: ClassVar[bool]
    """Whether a row is a source, a separator and a target, of which alone something is asked: the
    separator is the last of the symbols, and no other token of the source."""

    @property
    def symbols(self) -> str:
        """The characters that occur, one token each; ids are places in the order of code points."""
        ...

    def problems(self, length: int) -> Iterator[str]:
        """Why there are no sequences of `length` tokens with these settings."""
        ...

    def sequences(self, draw: Draw, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets, int64 `[N, T]` each, of `draw.rows` sequences of T = `length` tokens.

        A target is `IGNORE` where nothing is asked. What is asked follows from the inputs up to
        there, and is in no input before.
        """
        ...


def setting_problems(kind: type[Task], settings: Any, place: str) -> Iterator[str]:
    """What is wrong with the words of `data.task`, here called `place`, for a task."""
    if settings is None:
        return
    if not isinstance(settings, dict):
        yield f"{place}={settings!r:.80}: give its settings, as in {{NAME: VALUE}}"
        return
    known = {item.name: item for item in fields(kind)}  # type: ignore[arg-type]
    types = get_type_hints(kind)
    for word, value in settings.items():
        if word not in known:
            yield f"{place}.{word}: no setting of this task{nearest(str(word), [*known])}"
        elif problem := type_problem(value, types[word]):
            yield f"{place}.{word}={value!r:.80}: {problem}"
        else:
            yield from value_problems(f"{place}.{word}", value, known[word].metadata)


def shifted(rows: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets `[N, T]` of `rows` `[N, T + 1]`, each token asked of those before it.

    `asked` `[N, T + 1]` says which are.
    """
    return rows[:, :-1], np.where(asked, rows, IGNORE)[:, 1:]


def put(rows: np.ndarray, starts: np.ndarray, values: np.ndarray, counts: np.ndarray) -> None:
    """Write the first `counts` `[N]` of `values` `[N, K]` into `rows` from `starts` `[N]` on."""
    places = np.arange(values.shape[1])
    row, column = np.nonzero(places < counts[:, None])
    rows[row, starts[row] + column] = values[row, column]


def numbered(count: int) -> str:
    """`count` different characters in the order of their code points, for symbols without names."""
    plain = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    first = 0x4E00  # a long range of assigned characters
    return plain[:count] if count <= len(plain) else "".join(map(chr, range(first, first + count)))


MOST_SYMBOLS = 20_000
"""The longest alphabet that `numbered` makes."""
