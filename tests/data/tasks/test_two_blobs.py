"""The rule that judges images: all of the task's pass, and nothing that differs by a pixel does."""

from __future__ import annotations

import numpy as np
import pytest

from data.tasks.task_data import TaskData, training_rows
from data.tasks.two_blobs import TwoBlobs


def images(task: TwoBlobs, length: int, count: int = 40) -> np.ndarray:
    return task.whole(*training_rows(TaskData("two_blobs", task, length), 0).rows(np.arange(count)))


@pytest.mark.parametrize(
    "task", [TwoBlobs(), TwoBlobs(colours=3, turn=1, size=1, places=3)], ids=str
)
def test_every_image_of_the_task_is_right(task: TwoBlobs) -> None:
    made = images(task, 81)
    assert len(np.unique(made, axis=0)) >= task.colours
    formed, agrees = task.judge(made)
    assert formed.all() and agrees.all()


def test_blobs_of_two_colours_are_two_blobs_that_do_not_agree() -> None:
    task = TwoBlobs()
    made = images(task, 81)
    lower = made[:, 45:]
    lower[lower > 0] = lower[lower > 0] % task.colours + 1
    formed, agrees = task.judge(made)
    assert formed.all() and not agrees.any()


def test_no_other_pixel_is_let_through() -> None:
    task = TwoBlobs(places=2)
    right = images(task, 81, 1)
    others = np.repeat(right, 81 * 5, axis=0)
    for number, row in enumerate(others):
        row[number // 5] = (row[number // 5] + 1 + number % 5) % 6
    assert not task.judge(others).formed.any()


def test_blobs_stand_farther_apart_than_they_are_large() -> None:
    """So that no neighbourhood of S - 2 (size + places - 1) rows touches both."""
    made = images(TwoBlobs(places=2), 100).reshape(-1, 10, 10)
    assert not made[:, 3:7].any()
    assert made[:, :3].any(axis=(1, 2)).all() and made[:, 7:].any(axis=(1, 2)).all()
