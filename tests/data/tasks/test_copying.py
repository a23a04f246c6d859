"""The copying task: letters, a mark, and the letters again."""

from __future__ import annotations

import numpy as np
import pytest

from data.meta import IGNORE
from data.tasks.copying import Copying
from data.tasks.draw import Draw


@pytest.mark.parametrize("length", [2, 3, 9, 64])
def test_all_the_room_is_used(length: int) -> None:
    task = Copying(alphabet=16)
    inputs, targets = task.sequences(Draw(np.arange(50, dtype=np.uint64)), length)
    half = length // 2
    assert (inputs[:, half] == 17).all() and (inputs[:, :half] != 17).all()
    assert np.array_equal(targets[:, half : 2 * half], inputs[:, :half])
    assert (targets[:, :half] == IGNORE).all() and (targets[:, 2 * half :] == IGNORE).all()


def test_drawn_lengths_are_uniform() -> None:
    rows = 6000
    draw = Draw(np.arange(rows, dtype=np.uint64) * 7919)
    _, targets = Copying(fewest=3).sequences(draw, 17)
    lengths, counts = np.unique((targets != IGNORE).sum(axis=1), return_counts=True)
    assert lengths.tolist() == [3, 4, 5, 6, 7, 8]
    assert np.abs(counts / (rows / 6) - 1).max() < 5 / np.sqrt(rows / 6)


@pytest.mark.parametrize(
    ("task", "length", "why"),
    [
        (Copying(), 1, "data.length=1: 1 letters to copy need 2"),
        (Copying(fewest=20), 39, "data.length=39: 20 letters to copy need 40"),
    ],
)
def test_what_does_not_fit_is_said(task: Copying, length: int, why: str) -> None:
    assert list(task.problems(length)) == [why]
    assert list(task.problems(length + 1)) == []
